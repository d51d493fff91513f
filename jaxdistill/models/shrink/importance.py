"""How much of a decoder's activations its heads, inner channels and hidden channels carry."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill.errors import DataError, ModelError
from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.bodies.rebuilt import module_of
from jaxdistill.models.bodies.text_encoder import input_ids_of
from jaxdistill.models.family import Model, Options
from jaxdistill.models.layers.attention import attend_causally, positions_of, segments_of, visible
from jaxdistill.models.layers.decoder_layer import DecoderLayer, Shape, shape_of
from jaxdistill.models.layers.rotary import Rotation
from jaxdistill.parallel import sharding
from jaxdistill.types import Tree

Totals = dict[str, Tree]


@dataclasses.dataclass(frozen=True)
class Importance:
    """Mean absolute activations over calibration texts (Muralidharan et al. 2024, section 2.2).

    Attributes:
      heads: `[L, K]`, of what the query heads of each key head put out.
      mlp: `[L, I]`, of what the feed-forward network's last projection reads.
      hidden: `[D]`, of the normalized hidden states that all blocks and the head read.
      energy: mean squares of the input of each normalization, `layers/{name}` `[L, D]` and `norm`
        `[D]`.
      tokens: how many tokens the means are over.
    """

    heads: np.ndarray
    mlp: np.ndarray
    hidden: np.ndarray
    energy: Mapping[str, np.ndarray]
    tokens: int


def decoder_shape(model: Model) -> tuple[Shape, Options]:
    """Return what a decoder is built from.

    Raises:
      ModelError: the model is no decoder.
    """
    shape, options = shape_of(model.config), model.options
    if shape is None or options is None:
        raise ModelError(
            f"student: got a teacher of family {model.family!r}, expected a decoder such as gpt2 "
            "or llama: only these are sliced in width; choose student.layers instead"
        )
    return shape, options


def measure_importance(
    model: Model, batches: Iterable[Mapping[str, Any]], *, mesh: Mesh | None = None
) -> Importance:
    """Measure a decoder on text batches; padding does not count.

    Over a mesh its parameters are split as for training; each process gives all rows.

    Raises:
      ModelError: the model is no decoder.
      DataError: no batch, or none with a token.
    """
    shape, options = decoder_shape(model)
    total: Totals | None = None
    params = model.params
    if mesh is not None:
        params = sharding.place(params, sharding.parameter_shardings(params, model.axes, mesh))
    for batch in batches:
        arrays = {name: np.asarray(batch[name]) for name in _FIELDS if name in batch}
        sums = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64),
            sharding.fetch(_sums(params, arrays, shape=shape, options=options, mesh=mesh)),
        )
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    if total is None or not total["tokens"]:
        raise DataError(
            "calibration: got no token to measure the teacher on, expected at least one batch of "
            "text"
        )
    tokens = total["tokens"]
    inputs = 2 * shape.depth + 1  # normalized hidden states
    return Importance(
        heads=total["heads"] / (tokens * shape.heads // shape.key_heads * shape.head_width),
        mlp=total["mlp"] / tokens,
        hidden=total["hidden"] / (tokens * inputs),
        energy={name: value / tokens for name, value in total["energy"].items()},
        tokens=int(tokens),
    )


_FIELDS = ("input_ids", "attention_mask", "segment_ids", "position_ids")


@functools.partial(jax.jit, static_argnames=("shape", "options", "mesh"))
def _sums(
    params: Tree,
    batch: Mapping[str, jax.Array],
    *,
    shape: Shape,
    options: Options,
    mesh: Mesh | None,
) -> Totals:
    """Return sums over the tokens of a batch."""
    with sharding.on_mesh(mesh):
        return _summed(params, batch, shape, options)


def _summed(params: Tree, batch: Mapping[str, jax.Array], shape: Shape, options: Options) -> Totals:
    module: DecoderModel = module_of(DecoderModel, shape, options, params)
    ids = input_ids_of(batch, shape.positions)
    positions = positions_of(batch, ids.shape[1])
    segments = segments_of(batch)
    real = jnp.ones(ids.shape, bool) if segments is None else segments > 0
    weight = real.astype(jnp.float32)

    def size(x: jax.Array) -> jax.Array:
        return jnp.einsum("bt...,bt->...", jnp.abs(x.astype(jnp.float32)), weight)

    def energy(x: jax.Array) -> jax.Array:
        return jnp.einsum("btd,bt->d", jnp.square(x.astype(jnp.float32)), weight)

    def call(
        layer: DecoderLayer,
        hidden: jax.Array,
        rotation: Rotation | None,
        _: jax.Array | None,
        own: Tree,
    ) -> tuple[jax.Array, Totals]:
        def mix(query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array | None):
            mask = visible(segments, query.shape[1], own["window"])
            mixed, _ = attend_causally(
                query, key, value, mask, scale=shape.scale, softcap=shape.softcap
            )
            return mixed, size(mixed)  # [H, d]

        hidden, heads, inside = layer.opened(hidden, rotation, mix)
        normalized = {"attention_norm": inside.entered, "mlp_norm": inside.between}
        if shape.post_norms:
            normalized |= {"attention_post_norm": inside.mixed, "mlp_post_norm": inside.outer}
        sums = {
            "heads": heads.reshape(shape.key_heads, -1).sum(-1),
            "mlp": size(inside.inner),
            "hidden": size(inside.attended) + size(inside.fed),
            "energy": {f"layers/{name}": energy(x) for name, x in normalized.items()},
        }
        return hidden, sums

    hidden, sums = module.run(call, module.embeddings(ids, positions), positions)
    last = size(module.norm(hidden))
    return {
        **sums,
        "hidden": sums["hidden"].sum(0) + last,
        "energy": sums["energy"] | {"norm": energy(hidden)},
        "tokens": weight.sum(),
    }
