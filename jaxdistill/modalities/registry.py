"""All kinds of input by name: those of the package, and those that others registered."""

from __future__ import annotations

import importlib

from jaxdistill.config.plugins import load_plugins, refuse_taken
from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.modalities.modality import Modality

DEFAULT = "text"
"""What data is taken for where nothing else is recognized: it says what is missing."""
_OWN = ("features", "images", "text", "documents")
_REGISTERED: dict[str, Modality] = {}


def register_modality(modality: Modality) -> Modality:
    """Make a kind of input known to configs, `jaxdistill methods` and plans under its name.

    Raises:
      ConfigError: another kind has that name.
    """
    name = modality.name
    refuse_taken("register_modality", "kind of input", name, modality, _own(), _REGISTERED)
    _REGISTERED[modality.name] = modality
    return modality


def modalities() -> dict[str, Modality]:
    """Return every kind of input by name, those of the package first."""
    load_plugins()
    return _own() | _REGISTERED


def modality_named(name: str) -> Modality:
    """Return a kind of input.

    Raises:
      ModelError: no such kind.
    """
    known = modalities()
    if name not in known:
        raise ModelError(
            f"modality: got {name!r}, expected one of {list(known)}.{did_you_mean(name, known)}"
        )
    return known[name]


def recognizable() -> list[Modality]:
    """Return the kinds that columns show, in the order in which they are looked for."""
    shown = [one for one in modalities().values() if one.named or one.usual]
    found = [one for one in shown if not one.has_options]
    return sorted(found, key=lambda one: one.name == DEFAULT)


def reads(reader: str, modality: str) -> bool:
    """Return whether models that read the kind `reader` read a kind of input, too."""
    return modality_named(modality).is_read_by(reader)


def _own() -> dict[str, Modality]:
    modules = (importlib.import_module(f"jaxdistill.modalities.{name}") for name in _OWN)
    return {module.MODALITY.name: module.MODALITY for module in modules}
