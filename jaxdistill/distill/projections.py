"""Trained maps from the student's features to the teacher's, where their widths differ."""

from __future__ import annotations

from typing import Any

import jax

from jaxdistill.config.objective import HIDDEN_LOSSES
from jaxdistill.config.schema import Config
from jaxdistill.models.layer_maps import check_layers, tap_shapes
from jaxdistill.models.registry import Model


def make_projections(config: Config, student: Model, teacher: Model, seed: int) -> dict[str, Any]:
    """Create the kernels for hidden-state terms between models of different widths.

    Returns `{term: {student_layer: [D_student, D_teacher]}}`, only for terms that need them.

    Raises:
      ConfigError: see `check_layers`.
    """
    check_layers(config, student, teacher)
    projections: dict[str, Any] = {}
    for name, term in config.terms.items():
        if term.loss not in HIDDEN_LOSSES:
            continue
        layers = term.layers or {}
        sides = (student, list(layers.keys())), (teacher, list(layers.values()))
        widths = [
            [shape[-1] for shape in tap_shapes(model, wanted, "hidden")] for model, wanted in sides
        ]
        if widths[0] == widths[1]:
            continue
        key = jax.random.fold_in(jax.random.key(seed), len(projections))
        projections[name] = {}
        for index, layer in enumerate(layers):
            ours, theirs = widths[0][index], widths[1][index]
            scale = ours**-0.5
            kernel = scale * jax.random.normal(jax.random.fold_in(key, index), (ours, theirs))
            projections[name][str(layer)] = kernel
    return projections
