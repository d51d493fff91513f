"""A decoder that reads prompts at once, then token by token beside cached keys and values."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.layers.attention import attend_causally, visible
from jaxdistill.models.layers.decoder_layer import DecoderLayer
from jaxdistill.models.layers.heads import logits_of
from jaxdistill.models.layers.rotary import Rotation
from jaxdistill.parallel.sharding import constrain
from jaxdistill.types import Tree

Cache = tuple[jax.Array, jax.Array]  # keys and values, each [layers, B, T, K, d]
Mixed = tuple[jax.Array | None, jax.Array, jax.Array, Cache]
"""The mask, keys and values that a layer attends with, and its part of the next cache."""
Mix = Callable[[Tree, jax.Array, jax.Array], Mixed]


def _run(
    module: DecoderModel, ids: jax.Array, positions: jax.Array, mix: Mix, cache: Cache | None
) -> tuple[jax.Array, Cache]:
    """Return the logits `[B, V]` of the last of `[B, T]` tokens, and what `mix` emits per layer.

    `mix(own, key, value)` gets, as `own`, the layer's window and part of the cache.
    """
    shape = module.shape

    def call(
        layer: DecoderLayer,
        hidden: jax.Array,
        rotation: Rotation | None,
        _: jax.Array | None,
        own: Tree,
    ) -> tuple[jax.Array, Tree]:
        def mix_own(query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array | None):
            mask, key, value, emitted = mix(own, key, value)
            mixed, _ = attend_causally(
                query, key, value, mask, scale=shape.scale, softcap=shape.softcap
            )
            return mixed, emitted

        return layer(hidden, rotation, mix_own, None)

    hidden, emitted = module.run(call, module.embeddings(ids, positions), positions, cache=cache)
    logits = logits_of(module.norm(hidden[:, -1:]), module.last_projection())
    return constrain(logits[:, 0], "rows", "vocab"), emitted


def read_prompts(
    module: DecoderModel, ids: jax.Array, lengths: jax.Array, room: int
) -> tuple[jax.Array, Cache]:
    """Read left-padded prompts `[B, P]`: the next token's logits, and a cache of `P + room`."""
    index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] - (ids.shape[1] - lengths)[:, None]
    segments = (index >= 0).astype(jnp.int32)  # [B, P]

    def mix(own: Tree, key: jax.Array, value: jax.Array) -> Mixed:
        space = ((0, 0), (0, room), (0, 0), (0, 0))
        mask = visible(segments, ids.shape[1], own["window"])
        return mask, key, value, (jnp.pad(key, space), jnp.pad(value, space))

    # Padding stands at some position, too; no token looks at it.
    return _run(module, ids, jnp.maximum(index, 0), mix, None)


def read_token(
    module: DecoderModel,
    token: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    first: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Read one token `[B, 1]` per row: the next one's logits, and the cache with this one in it.

    Args:
      position: `[B, 1]`, in its own text.
      slot: where its keys and values go in the cache.
      first: `[B]`, where the row's text starts in the cache.
    """
    index = jnp.arange(cache[0].shape[2], dtype=jnp.int32)[None]  # [1, T]
    seen = (index >= first[:, None]) & (index <= slot)

    def mix(own: Tree, key: jax.Array, value: jax.Array) -> Mixed:
        mask = seen if own["window"] is None else seen & (slot - index < own["window"])
        keys, values = (
            lax.dynamic_update_slice_in_dim(old, new, slot, axis=1)
            for old, new in zip(own["cache"], (key, value), strict=True)
        )
        # The new ones alone are emitted: the cache itself is then written once, in its place.
        return mask[:, None, None], keys, values, (key, value)

    logits, news = _run(module, token, position, mix, cache)
    keys, values = (
        lax.dynamic_update_slice_in_dim(old, new, slot, axis=2)
        for old, new in zip(cache, news, strict=True)
    )
    return logits, (keys, values)
