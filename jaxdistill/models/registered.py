"""Names of model families, known without importing one: those of the package, and others'."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

from jaxdistill.config.plugins import load_plugins, refuse_taken
from jaxdistill.errors import ConfigError, ModelError, did_you_mean

if TYPE_CHECKING:
    from jaxdistill.models.family import Family

# Family name, or another `model_type` of Hugging Face configs -> the module that declares it.
_MODULES = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "distilbert": "distilbert",
    "mobilebert": "mobilebert",
    "vit": "vit",
    "resnet": "resnet",
    "gpt2": "gpt2",
    "llama": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "t5": "t5",
    "mlp": "small",
    "cnn": "small",
    "jaxdistill-mlp": "small",
    "jaxdistill-cnn": "small",
}


@dataclasses.dataclass(frozen=True)
class _Declared:
    name: str
    family: str | Family


_REGISTERED: dict[str, _Declared] = {}


def register_family(
    name: str, family: str | Family, *, model_types: tuple[str, ...] | None = None
) -> None:
    """Make a model family known to configs, folders, `jaxdistill methods` and plans.

    Args:
      name: name of the family in a spec, `{"family": name, ...}`.
      family: the record, or `package.module:NAME` of it, which is imported on first use: then a
        config that names it can be checked without importing jax.
      model_types: values of `model_type` in a config.json that mean it; None: the name alone, or
        those of the record where it is given as itself.

    Raises:
      ConfigError: another family has one of the names, or the record has another name.
    """
    if not isinstance(family, str) and model_types is None:
        model_types = family.model_types
    declared = _Declared(name, family)
    if not isinstance(family, str) and family.name != name:
        raise ConfigError(
            f"register_family: got the name {name!r} for the family {family.name!r}, expected the "
            "same"
        )
    names = dict.fromkeys((name, *(model_types or ())))
    for each in names:
        refuse_taken("register_family", "family", each, declared, _MODULES, _REGISTERED)
    _REGISTERED.update(dict.fromkeys(names, declared))


def family_names() -> list[str]:
    """Return every name that means a family, those of the package first."""
    load_plugins()
    return [*_MODULES, *_REGISTERED]


def family_named(name: str) -> Family:
    """Return the family of that name or Hugging Face `model_type`.

    Raises:
      ModelError: no such family, or a registered one whose record is not there.
    """
    known = family_names()
    if name not in known:
        raise ModelError(
            f"model family: got {name!r}, expected one of {sorted(known)}."
            f"{did_you_mean(str(name), known)}"
        )
    if name in _REGISTERED:
        return _imported(_REGISTERED[name])
    module = importlib.import_module(f"jaxdistill.models.families.{_MODULES[name]}")
    found = [f for f in module.FAMILIES if name == f.name or name in f.model_types]
    return found[0]


def families() -> dict[str, Family]:
    """Return every family by name."""
    every = (family_named(name) for name in family_names())
    return {family.name: family for family in every}


def _imported(declared: _Declared) -> Family:
    if not isinstance(declared.family, str):
        return declared.family
    module, _, name = declared.family.partition(":")
    try:
        family: Family = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model family {declared.name!r}: {declared.family!r} cannot be imported ({error}); "
            "mend the package that registered it, or uninstall it"
        ) from error
    if getattr(family, "name", None) != declared.name:
        raise ModelError(
            f"model family {declared.name!r}: got {str(family)[:40]!r} from {declared.family!r}, "
            "expected a Family of that name"
        )
    return family
