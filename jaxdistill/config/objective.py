"""Weighted terms of the distillation objective, each with the options of its method."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import create_model, field_validator
from pydantic.fields import FieldInfo

from jaxdistill.config.base import NonNegativeFloat, ScheduleConfig, Section, check_ends
from jaxdistill.errors import did_you_mean
from jaxdistill.methods.registry import Method, method_named, methods
from jaxdistill.types import Annotation, Json


class TermConfig(Section):
    """One weighted term; the options of its method are further fields, see `term_class`."""

    loss: str
    """Method, as `jaxdistill methods` lists them."""
    weight: NonNegativeFloat | ScheduleConfig = 1.0
    """Factor of the term's mean in the objective: a number, or a schedule."""

    @property
    def method(self) -> Method:
        """What the term computes."""
        return method_named(self.loss)

    @property
    def options(self) -> Json:
        """The options of its method, by name."""
        return {name: getattr(self, name) for name in self.method.options.model_fields}

    @property
    def acts(self) -> bool:
        """Whether the weight is above 0 at some step."""
        weight = self.weight
        return (weight.highest if isinstance(weight, ScheduleConfig) else weight) > 0

    @field_validator("weight")
    @classmethod
    def _is_a_weight(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        check_ends(value, "a number greater than or equal to 0", lambda end: end >= 0)
        return value


def term_class(loss: str) -> type[TermConfig]:
    """Return the section of a term with that loss: `TermConfig` with the options of its method.

    Raises:
      ValueError: no such method.
    """
    try:
        return _class_of(method_named(loss))
    except KeyError:
        known = list(methods())
        raise ValueError(
            f"loss: got {loss!r}, expected one of {known}.{did_you_mean(str(loss), known)}"
        ) from None


def make_term(loss: str, **values: Any) -> TermConfig:
    """Return a checked term."""
    return term_class(loss)(loss=loss, **values)


def read_term(values: object) -> object:
    """Return a term from the values of a mapping; what is no mapping is left to pydantic.

    Raises:
      ValueError: no such method, or an option that it refuses.
    """
    if not isinstance(values, Mapping):
        return values
    if "loss" not in values:
        return TermConfig.model_validate(values)
    return term_class(values["loss"]).model_validate(values)


def option_annotation(name: str) -> Annotation:
    """Return the type of an option of any method, or Any where none has it."""
    field = _options().get(name)
    return Any if field is None else field.annotation


def term_fields(loss: Any) -> Mapping[str, FieldInfo]:
    """Return the fields of a term with that loss; with none that is known, those of every term."""
    try:
        return term_class(loss).model_fields
    except ValueError:
        return _options() | TermConfig.model_fields


def option_fault(loss: Any, name: str) -> str | None:
    """Say that a term's method does not have an option, or None where it is one of its keys."""
    try:
        own = term_class(loss).model_fields
    except ValueError:
        return None  # The loss is the fault.
    if name in own or name not in _options():
        return None
    known = ", ".join(key for key in own if key != "loss")
    return f"unknown key for the loss {loss!r}, which has {known}; drop it"


def _options() -> dict[str, FieldInfo]:
    """Return the fields of all options of all methods."""
    found: dict[str, FieldInfo] = {}
    for method in methods().values():
        found = {**method.options.model_fields, **found}
    return found


@functools.cache
def _class_of(method: Method) -> type[TermConfig]:
    name = "".join(part.title() for part in method.name.split("_"))
    made: Any = create_model(f"{name}TermConfig", __base__=(method.options, TermConfig))
    return made
