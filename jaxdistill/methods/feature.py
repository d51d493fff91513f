"""Losses of what layers of both models hold."""

from __future__ import annotations

from pydantic import model_validator

from jaxdistill.config.base import NonNegativeInt, Section
from jaxdistill.methods.method import Method


class LayersOptions(Section):
    """Options of the losses on hidden states and attention maps."""

    layers: dict[NonNegativeInt, NonNegativeInt] | None = None
    """Pairs of layers that are compared, `student_layer: teacher_layer`."""

    @model_validator(mode="after")
    def _has_layers(self) -> LayersOptions:
        if not self.layers:
            loss = getattr(self, "loss", "")
            raise ValueError(
                f"layers: got none for loss {loss!r}, expected a map "
                "student_layer: teacher_layer, e.g. layers: {0: 1, 1: 3, 2: 5}"
            )
        return self


METHODS = (
    Method("hidden_mse", "hidden", "jaxdistill.losses:hidden_mse", LayersOptions),
    Method("hidden_cosine", "hidden", "jaxdistill.losses:hidden_cosine", LayersOptions),
    Method("attention_kl", "attention", "jaxdistill.losses:attention_kl", LayersOptions),
)
