"""All methods by name: those of the package, and those that others registered."""

from __future__ import annotations

import functools
import importlib

from jaxdistill.config.plugins import load_plugins, refuse_taken
from jaxdistill.methods.method import Method

_OWN = ("labels", "response", "feature")
_REGISTERED: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Make a method known to configs, `jaxdistill methods` and plans under its name.

    Raises:
      ConfigError: another method has that name.
    """
    own = {name for module in _OWN for name in _declared(module)}
    refuse_taken("register_method", "method", method.name, method, own, _REGISTERED)
    _REGISTERED[method.name] = method
    return method


def methods() -> dict[str, Method]:
    """Return every method by name, those of the package first."""
    load_plugins()
    found = {name: method for module in _OWN for name, method in _declared(module).items()}
    return found | _REGISTERED


def method_named(name: str) -> Method:
    """Return a method.

    Raises:
      KeyError: no such method.
    """
    return methods()[name]


@functools.cache
def _declared(module: str) -> dict[str, Method]:
    declared = importlib.import_module(f"jaxdistill.methods.{module}").METHODS
    return {method.name: method for method in declared}
