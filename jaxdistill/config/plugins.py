"""What other packages add: found by their entry points, loaded once, and named in records."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection
from importlib.metadata import entry_points
from typing import Any, TypeVar

from jaxdistill.errors import ConfigError

GROUP = "jaxdistill.plugins"
T = TypeVar("T")

Target = str | Callable[..., Any]
"""A function, or `package.module:name` of one that is imported on first use."""


def function_of(target: Target) -> Callable[..., Any]:
    """Return a function that was named as `package.module:name`, or the function itself."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def refuse_taken(
    door: str, kind: str, name: str, declared: T, own: Collection[str], registered: dict[str, T]
) -> None:
    """Refuse a name that something else has; the same declaration may come twice.

    Raises:
      ConfigError: the package or another plugin has a thing of that name.
    """
    if name in own or registered.get(name, declared) != declared:
        raise ConfigError(
            f"{door}: got the name {name!r}, which another {kind} has; choose another one"
        )


@functools.cache
def load_plugins() -> None:
    """Import what installed packages offer under the entry points `jaxdistill.plugins`.

    Raises:
      ConfigError: one of them cannot be imported, or fails when it registers.
    """
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            if callable(found):
                found()
        except Exception as error:
            package = "" if point.dist is None else f" of the package {point.dist.name}"
            raise ConfigError(
                f"plugin {point.name!r}{package} ({point.value}): got "
                f"{type(error).__name__}: {error}; mend the package, or uninstall it"
            ) from error
