"""Trained maps from the student's features to the teacher's, where their widths differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.models.layer_maps import check_layers, tap_shapes
from jaxdistill.models.registry import Model

Batch = dict[str, Any]


def make_projections(
    config: Config, teacher: Model, example: Batch | None, student: Model, seed: int
) -> dict[str, Any]:
    """Create the kernels for hidden-state terms between models of different widths.

    Args:
      config: Configuration of the run.
      teacher: Model that teaches; its parameters may be shapes.
      example: Batch that both models read; a small one that the models themselves say where None.
      student: Model that is trained; its parameters may be shapes.
      seed: Seed of the kernels' first values.

    Returns `{term: {student_layer: [D_student, D_teacher]}}`, only for terms that need them.

    Raises:
      ConfigError: see `check_layers`.
    """
    check_layers(config, student, teacher, example)
    projections: dict[str, Any] = {}
    for name, term in config.terms.items():
        key = jax.random.fold_in(jax.random.key(seed), len(projections))
        if term.method.maps is not None:
            make = function_of(term.method.maps)
            projections[name] = make(student, teacher, key, **term.options)
        elif term.method.reads == "hidden":
            kernels = _kernels(student, teacher, term.options["layers"], key, example)
            projections |= {} if kernels is None else {name: kernels}
    return projections


def make_method_state(config: Config, student: Model, teacher: Model) -> dict[str, Any] | None:
    """Return what terms carry from step to step, before the first, by term; None where none does.

    Args:
      config: Configuration of the run.
      student: Model that is trained; its parameters may be shapes.
      teacher: Model that teaches; its parameters may be shapes.
    """
    found = {
        name: function_of(term.method.state)(student, teacher, **term.options)
        for name, term in config.terms.items()
        if term.method.state is not None
    }
    return found or None


def _kernels(
    student: Model,
    teacher: Model,
    layers: Mapping[int, int],
    key: jax.Array,
    example: Batch | None,
) -> dict[str, jax.Array] | None:
    """Draw a kernel for each pair of layers, or return None where the widths are equal."""
    sides = (student, list(layers.keys())), (teacher, list(layers.values()))
    ours, theirs = (
        [shape[-1] for shape in tap_shapes(model, wanted, "hidden", example)]
        for model, wanted in sides
    )
    if ours == theirs:
        return None
    return {
        str(layer): ours[index] ** -0.5
        * jax.random.normal(jax.random.fold_in(key, index), (ours[index], theirs[index]))
        for index, layer in enumerate(layers)
    }
