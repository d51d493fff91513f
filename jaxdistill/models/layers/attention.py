"""Causal self-attention with grouped heads, and what a token of a padded or packed row may see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.models.layers.basic import MASKED, dropout
from jaxdistill.parallel.sharding import constrain
from jaxdistill.types import Tree

# Mixes values for queries: `(query [B, T, H, d], key [B, S, K, d], value [B, S, K, d], rng) ->
# (mixed [B, T, H, d], emitted)`. Whoever runs the layers says what a query sees, and of which keys.
Mix = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, Tree]]


def segments_of(batch: Mapping[str, jax.Array]) -> jax.Array | None:
    """Return which text each token belongs to, `[B, T]`, 0 for padding; None for whole rows."""
    segments = batch.get("segment_ids")
    if segments is not None:
        return segments
    mask = batch.get("attention_mask")
    return None if mask is None else (mask > 0).astype(jnp.int32)


def positions_of(batch: Mapping[str, jax.Array], length: int) -> jax.Array:
    """Return each token's position in its text, from 0: `[1 or B, T]` integers.

    Those of the batch where it has any. Otherwise they are counted over real tokens, so that a row
    gives the same whether it is padded on the left, on the right, packed, or alone.
    """
    if "position_ids" in batch:
        return batch["position_ids"]
    index = jnp.arange(length, dtype=jnp.int32)[None]  # [1, T]
    segments = batch.get("segment_ids")
    if segments is not None:
        before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        starts = jnp.where(segments != before, index, 0)
        return index - lax.cummax(starts, axis=1)
    mask = batch.get("attention_mask")
    if mask is None:
        return index
    return jnp.maximum(jnp.cumsum((mask > 0).astype(jnp.int32), axis=1) - 1, 0)


def visible(
    segments: jax.Array | None, length: int, window: jax.Array | int | None
) -> jax.Array | None:
    """Return where a token may look: back, in its text, fewer than `window` tokens far.

    Args:
      segments: `[B, T]`, see `segments_of`.
      window: number of tokens seen, the token itself counted; None for all before.

    Returns:
      Boolean `[1 or B, 1, T, T]`, or None where causality alone decides. Padding sees nothing.
    """
    if segments is None and window is None:
        return None
    index = jnp.arange(length, dtype=jnp.int32)
    distance = index[:, None] - index[None, :]  # [T, T]
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    allowed = allowed[None, None]
    if segments is None:
        return allowed
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
    return allowed & same[:, None]


def attend_causally(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    *,
    scale: float,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    rate: float = 0.0,
    rng: jax.Array | None = None,
    emit: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Scaled dot-product attention in which `H / K` query heads share a key head.

    Keys and values are never repeated in memory (Ainslie et al. 2023). The softmax is float32.

    Args:
      query: `[B, T, H, d]`; key and value: `[B, S, K, d]`, `H` a multiple of `K`.
      mask: boolean, broadcast to `[B, 1, T, S]`; None: causal, `T` equal to `S`. A query that may
        attend to nothing averages all values.
      scale: factor on the products of query and key.
      bias: `[1 or B, H, T, S]`, added to them.
      softcap: `softcap * tanh(scores / softcap)` before the mask (Gemma Team 2024, section 2).
      rate: dropout on the probabilities, off where `rng` is None.
      emit: return the probabilities, too.

    Returns:
      The mixed values `[B, T, H, d]`, and the probabilities before dropout `[B, H, T, S]` float32
      or None.
    """
    # Each device has the queries of one part of a row, and looks at all of it.
    key, value = (constrain(x, "rows", None, "heads", None) for x in (key, value))
    if softcap is None and not emit and (rng is None or rate == 0.0):
        mixed = jax.nn.dot_product_attention(
            query, key, value, bias, mask, scale=scale, is_causal=mask is None
        )
        return mixed, None
    # By hand: jax.nn.dot_product_attention has no softcap and no dropout, and keeps its
    # probabilities to itself.
    batch, length, heads, width = query.shape
    source, groups = key.shape[1], key.shape[2]
    if mask is None:
        mask = visible(None, length, length)
        assert mask is not None
    grouped = query.reshape(batch, length, groups, heads // groups, width)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    scores = scores * scale
    if bias is not None:
        scores = scores + bias.reshape(-1, groups, heads // groups, *bias.shape[2:])
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask[:, :, None], scores, MASKED)
    probabilities = jax.nn.softmax(scores, axis=-1)
    weights = dropout(probabilities, rate, rng).astype(value.dtype)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights, value).reshape(query.shape)
    return mixed, probabilities.reshape(batch, heads, length, source) if emit else None
