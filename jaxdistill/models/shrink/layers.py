"""A student made of its teacher: some of the layers, with the embeddings and the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.errors import ModelError
from jaxdistill.models.assembly import assemble, initial
from jaxdistill.models.family import Model
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import family_named
from jaxdistill.types import Tree


def evenly_spaced(count: int, depth: int) -> list[int]:
    """Return `count` layers of `depth`, `floor(i * depth / count)`: 3 of 6 are 0, 2 and 4."""
    return [i * depth // count for i in range(count)]


def student_from_teacher(
    teacher: Model, layers: Sequence[int] | int, *, seed: int = 0, fresh_head: bool = False
) -> Model:
    """Copy a teacher with only some of its layers (Sanh et al. 2019, section 3).

    Args:
      teacher: a model whose layers are stacked (the transformer families).
      layers: the teacher's layers that the student gets, in this order; a number picks as many,
        evenly spaced.
      seed: seed of the new head's initial values.
      fresh_head: draw the head anew instead of copying it.

    Returns:
      A model that shares no buffer with the teacher, so that either may be donated.

    Raises:
      ModelError: layers that the teacher does not have, that repeat, or none at all; or a model
        without stacked layers.
    """
    if teacher.family is None or teacher.options is None or "layers" not in teacher.params:
        raise ModelError(
            f"student.layers: got a teacher of family {teacher.family!r}, expected one with "
            "stacked layers; give the student a model of its own instead"
        )
    family = family_named(teacher.family)
    field = family.field_aliases.get("num_hidden_layers", "num_hidden_layers")
    depth = getattr(teacher.config, field)
    chosen = _checked(layers, depth)
    extra = {k: len(chosen) if k == field else v for k, v in teacher.config.extra.items()}
    fields: dict[str, Any] = {field: len(chosen), "extra": extra}
    if getattr(teacher.config, "layer_types", None):  # each keeps the attention it was trained with
        fields["layer_types"] = tuple(teacher.config.layer_types[i] for i in chosen)
    config = dataclasses.replace(teacher.config, **fields)

    def pick(leaf: Tree) -> jax.Array:
        return jnp.asarray(leaf)[np.asarray(chosen)]

    params = {
        name: jax.tree.map(pick if name == "layers" else lambda x: jnp.array(x, copy=True), branch)
        for name, branch in teacher.params.items()
    }
    leaves = flatten({"params": params, "model_state": teacher.model_state})
    new = []
    if fresh_head:
        rules = family.rules(config, teacher.options)
        new = [f"{rule.collection}/{rule.ours}" for rule in rules if rule.group == "head"]
        leaves |= initial(family, config, teacher.options, seed, new)
    initialized = {path.removeprefix("params/") for path in new} | set(teacher.initialized)
    return assemble(
        family,
        config,
        teacher.options,
        leaves,
        labels=teacher.labels,
        source=teacher.source,
        initialized=tuple(sorted(initialized)),
    )


def _checked(layers: Sequence[int] | int, depth: int) -> list[int]:
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise ModelError(
                f"student.layers: got {layers}, expected 1 to {depth}; "
                f"the teacher has {depth} layers"
            )
        return evenly_spaced(layers, depth)
    chosen = list(layers)
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in chosen)
    if not chosen or not whole or any(not 0 <= i < depth for i in chosen):
        raise ModelError(
            f"student.layers: got {chosen}, expected some of 0 to {depth - 1}; "
            f"the teacher has {depth} layers"
        )
    if len(set(chosen)) != len(chosen):
        raise ModelError(
            f"student.layers: got {chosen}, expected each at most once; "
            f"the teacher has {depth} layers"
        )
    return chosen
