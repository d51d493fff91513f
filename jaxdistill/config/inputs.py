"""The kind of input that `data` names, and the options which that kind has."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from jaxdistill.config.base import Section
from jaxdistill.errors import did_you_mean
from jaxdistill.modalities.modality import Modality
from jaxdistill.modalities.registry import modalities
from jaxdistill.types import Annotation


class InputsConfig(Section):
    """Options of a kind of input; which there are, the kind says, see `inputs_class`."""


def inputs_class(name: str) -> type[InputsConfig]:
    """Return the section of the options of a kind of input.

    Raises:
      ValueError: no such kind.
    """
    known = modalities()
    if name not in known:
        raise ValueError(
            f"modality: got {name!r}, expected one of {list(known)}."
            f"{did_you_mean(str(name), known)}"
        )
    return _class_of(known[name])


def read_inputs(data: object) -> object:
    """Return the values of `data` with the options of its kind of input read.

    Raises:
      ValueError: no such kind, options without one, or one that it refuses.
    """
    if not isinstance(data, Mapping):
        return data
    name, given = data.get("modality"), data.get("inputs")
    if name is None:
        if given is not None:
            raise ValueError(
                f"inputs: got {given} without data.modality, expected the kind of input that has "
                f"these options; set data.modality to one of {list(modalities())}"
            )
        return data
    section = inputs_class(name)
    if not section.model_fields:
        if given:
            raise ValueError(f"inputs: has no effect for the modality {name!r}; drop it")
        return {**data, "inputs": None}
    return {**data, "inputs": section.model_validate({} if given is None else given)}


def inputs_fields(name: Any) -> Mapping[str, FieldInfo]:
    """Return the options of a kind of input, none where it is not known."""
    return inputs_class(name).model_fields if name in modalities() else {}


def inputs_annotation(name: str) -> Annotation:
    """Return the type of an option of any kind of input, or Any where none has it."""
    found = (one.options.model_fields.get(name) for one in modalities().values())
    return next((field.annotation for field in found if field is not None), Any)


@functools.cache
def _class_of(modality: Modality) -> type[InputsConfig]:
    made: Any = create_model(
        f"{modality.name.title()}InputsConfig", __base__=(modality.options, InputsConfig)
    )
    return made
