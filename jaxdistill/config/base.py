"""What all sections of the configuration share: the section itself, schedules, usual types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Optimizer = Literal[
    "adamw",
    "adam",
    "adamax",
    "adamaxw",
    "adafactor",
    "adagrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "radam",
    "rmsprop",
    "sgd",
]
DECAYING = ("adamw", "adamaxw", "nadamw", "lamb", "lars", "lion", "sgd", "rmsprop")
"""Optimizers with weight decay."""


def _label_name(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(
            f"got {value}, as YAML reads yes, no, true and false; put quotes around the name"
        )
    return str(value) if isinstance(value, int | float) else value


LabelName = Annotated[str, BeforeValidator(_label_name)]
"""The name of a label, which may look like a number."""
Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Judgement = Literal["teacher_skill", "tokenizer"]
"""Fatal findings that a run can go on with, since nothing breaks."""


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class NoOptions(Section):
    """The options of what has none."""


class ScheduleConfig(Section):
    """A value that moves from `start` to `end` and then stays."""

    shape: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the way from `start` to `end`."""
    start: float
    """Value at the first step."""
    end: float
    """Value at the end of the way, and from then on."""
    over: PositiveFloat = 1.0
    """Length of the way: a share of the run when at most 1.0, else a number of steps."""

    @property
    def highest(self) -> float:
        """The largest value on the way; both shapes run straight from one end to the other."""
        return self.start if self.shape == "constant" else max(self.start, self.end)

    @model_validator(mode="after")
    def _moves(self) -> ScheduleConfig:
        if self.shape == "constant" and self.end != self.start:
            raise ValueError(
                f"end: got {self.end:g} for the shape 'constant', which stays at start, "
                f"{self.start:g}; choose 'linear' or 'cosine', or give the number alone"
            )
        return self


def check_ends(value: float | ScheduleConfig, wanted: str, fits: Callable[[float], bool]) -> None:
    """Refuse a schedule with a value out of range; its largest and smallest are its ends."""
    if isinstance(value, ScheduleConfig):
        for name in ("start", "end"):
            if not fits(end := getattr(value, name)):
                raise ValueError(f"{name}: got {end:g}, expected {wanted}, as at every step")
