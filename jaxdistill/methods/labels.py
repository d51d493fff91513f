"""Losses of the task's labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jaxdistill.config.base import Section
from jaxdistill.methods.method import Method


class SmoothingOptions(Section):
    """Options of `cross_entropy`."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of every label that is spread over all classes."""


METHODS = (
    Method(
        "cross_entropy",
        "labels",
        "jaxdistill.losses:cross_entropy",
        SmoothingOptions,
        fused=True,
    ),
    Method("regression", "labels", "jaxdistill.losses:regression"),
    Method("multilabel", "labels", "jaxdistill.losses:multilabel"),
)
