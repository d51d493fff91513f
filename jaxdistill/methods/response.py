"""Losses of both models' logits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from jaxdistill.config.base import PositiveFloat, ScheduleConfig, Section, check_ends
from jaxdistill.methods.method import Method


class TemperatureOptions(Section):
    """Options of the losses that compare distributions."""

    temperature: PositiveFloat | ScheduleConfig = 1.0
    """Number that divides both sides' logits."""

    @field_validator("temperature")
    @classmethod
    def _is_a_temperature(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        check_ends(value, "a number greater than 0", lambda end: end > 0)
        return value


class JsdOptions(TemperatureOptions):
    """Options of `jsd`."""

    beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the teacher in the mixture that both sides are compared with."""


def _of_classes(name: str, *codecs: str, options: type[Section] = TemperatureOptions) -> Method:
    return Method(
        name,
        "logits",
        f"jaxdistill.losses:{name}",
        options,
        compares_classes=True,
        fused=True,
        cached={codec: f"jaxdistill.losses:{codec}_{name}" for codec in codecs},
    )


METHODS = (
    _of_classes("forward_kl", "topk", "sampled"),
    _of_classes("reverse_kl", "topk"),
    _of_classes("jsd", "topk", options=JsdOptions),
    _of_classes("total_variation", "topk"),
    Method("mse_logits", "logits", "jaxdistill.losses:mse_logits"),
    Method("bernoulli_kl", "logits", "jaxdistill.losses:bernoulli_kl", TemperatureOptions),
)
