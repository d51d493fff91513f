"""Numbers in few bytes: class ids, log-probabilities, sampled weights and hidden states."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

UNUSED = 255  # the level of a slot that holds nothing
_STEPS = 254
SCALED = {"int8": 127.0, "float8_e4m3fn": 448.0}
"""Dtypes that need a scale, and the largest magnitude that each is given."""


def id_layout(count: int, classes: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return dtype and shape of the fields of `split_ids` for one token."""
    fields: dict[str, tuple[np.dtype, tuple[int, ...]]] = {"ids": (np.dtype(np.uint16), (count,))}
    if classes > 1 << 18:
        fields["ids_high"] = (np.dtype(np.uint16), (count,))
    elif classes > 1 << 16:
        fields["ids_high"] = (np.dtype(np.uint8), (-(-count // 4),))
    return fields


def split_ids(ids: jax.Array, classes: int) -> dict[str, jax.Array]:
    """Store ids int32 `[N, k]` in 16 bits, 18 (the upper two of four ids in a byte) or 32."""
    fields = {"ids": (ids & 0xFFFF).astype(jnp.uint16)}
    high = ids >> 16
    if classes > 1 << 18:
        fields["ids_high"] = high.astype(jnp.uint16)
    elif classes > 1 << 16:
        padded = jnp.pad(high, ((0, 0), (0, -ids.shape[-1] % 4))).reshape(ids.shape[0], -1, 4)
        shifts = jnp.array([[[0, 2, 4, 6]]], ids.dtype)
        fields["ids_high"] = jnp.sum(padded << shifts, -1).astype(jnp.uint8)
    return fields


def join_ids(fields: Mapping[str, jax.Array]) -> jax.Array:
    """Return the ids int32 `[..., k]` of `split_ids`."""
    ids = fields["ids"].astype(jnp.int32)
    high = fields.get("ids_high")
    if high is None:
        return ids
    if high.dtype == jnp.uint8:
        shifts = jnp.arange(0, 8, 2).reshape((1,) * high.ndim + (4,))
        pairs = (high.astype(jnp.int32)[..., None] >> shifts) & 3
        high = pairs.reshape(*high.shape[:-1], -1)[..., : ids.shape[-1]]
    return ids | (high.astype(jnp.int32) << 16)


def log_to_levels(below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Quantize distances from the best log-probability, `[N, k]`, at least 0, +inf for unused.

    `below = span (level / 254)²`: an error weighs by the probability, so the steps near the best
    are the smallest.

    Returns:
      levels uint8 `[N, k]` and span float16 `[N]`.
    """
    used = jnp.isfinite(below)
    below = jnp.where(used, below, 0.0)
    # A class e^-60000 below the best is one that does not occur.
    span = jnp.minimum(jnp.max(below, -1), 6e4).astype(jnp.float16)
    divisor = jnp.maximum(span.astype(jnp.float32), 1e-6)[:, None]
    levels = jnp.round(_STEPS * jnp.sqrt(below / divisor))
    return jnp.where(used, jnp.clip(levels, 0, _STEPS), UNUSED).astype(jnp.uint8), span


def levels_to_log(levels: jax.Array, span: jax.Array) -> jax.Array:
    """Return log-probabilities relative to the best, `[..., k]`; -inf for unused slots."""
    share = levels.astype(jnp.float32) / _STEPS
    relative = -span.astype(jnp.float32)[..., None] * share * share
    return jnp.where(levels == UNUSED, -jnp.inf, relative)


def weights_to_levels(weights: jax.Array, threshold: jax.Array, uniform: jax.Array) -> jax.Array:
    """Round weights to `threshold^(1 - level / 254)`, up or down at random, so without bias.

    The first weight is not stored: it is what the others leave of 1, and so has no bias either.

    Args:
      weights: `[N, k]`: 0 (unused), or between the threshold and 1.
      threshold: `[N]`, positive.
      uniform: `[N, k]` random numbers in [0, 1).

    Returns:
      uint8 `[N, k]`.
    """
    log_threshold = jnp.log(threshold)[:, None]
    used = weights > 0
    exact = _STEPS * (
        1 - jnp.log(jnp.where(used, weights, 1.0)) / jnp.minimum(log_threshold, -1e-6)
    )
    lower = jnp.clip(jnp.floor(exact), 0, _STEPS)
    low, high = (jnp.exp(log_threshold * (1 - (lower + up) / _STEPS)) for up in (0, 1))
    # The grid as decoded decides the chances; a level that rounding put one too high gets 0.
    chance = (weights - low) / (high - low)
    levels = jnp.clip(lower + (uniform < chance), 0, _STEPS)
    return jnp.where(used, levels, UNUSED).astype(jnp.uint8)


def levels_to_weights(levels: jax.Array, threshold: jax.Array) -> jax.Array:
    """Return the weights `[..., k]`, with sum 1; all 0 for a token without any."""
    log_threshold = jnp.log(jnp.maximum(threshold, 1e-30))[..., None]
    weights = jnp.exp(log_threshold * (1 - levels.astype(jnp.float32) / _STEPS))
    others = jnp.where(levels == UNUSED, 0.0, weights)[..., 1:]
    first = 1 - jnp.sum(others, -1, keepdims=True)
    return jnp.concatenate([jnp.where(levels[..., :1] == UNUSED, 0.0, first), others], -1)


def scaled_groups(values: jax.Array, dtype: str, group: int, outliers: int) -> dict[str, jax.Array]:
    """Store hidden states `[N, D]` in `dtype`, with a scale for each group where it needs one.

    Decoders have a few channels that are tens of times larger than the others (Dettmers et al.
    2022, arXiv 2208.07339). Sharing a scale with one of those leaves a group with no precision, so
    the `outliers` largest values of every state are kept separately, in float32.
    """
    if dtype not in SCALED:
        return {"hidden": values.astype(dtype)}
    count, width = values.shape
    exact = values.astype(jnp.float32)
    _, places = jax.lax.top_k(jnp.abs(exact), outliers)  # [N, O]
    rows = jnp.arange(count)[:, None]
    padded = jnp.pad(exact.at[rows, places].set(0.0), ((0, 0), (0, -width % group)))
    grouped = padded.reshape(count, -1, group)  # [N, G, group]
    largest = jnp.max(jnp.abs(grouped), -1, keepdims=True)
    # The values are divided by the scale as it is stored, so its rounding costs nothing.
    scale = (largest / SCALED[dtype]).astype(jnp.bfloat16)
    divided = grouped / jnp.where(scale == 0, 1.0, scale.astype(jnp.float32))
    divided = jnp.clip(divided, -SCALED[dtype], SCALED[dtype])
    rounded = jnp.round(divided) if dtype == "int8" else divided
    return {
        "hidden": rounded.reshape(count, -1)[:, :width].astype(dtype),
        "scale": scale[..., 0],
        "outliers": exact[rows, places],
        "outlier_channels": places.astype(jnp.uint16),
    }


def unscaled_groups(fields: Mapping[str, jax.Array], group: int) -> jax.Array:
    """Return the hidden states float32 `[..., D]` of `scaled_groups`."""
    hidden = fields["hidden"].astype(jnp.float32)
    if "scale" not in fields:
        return hidden
    scale = jnp.repeat(fields["scale"].astype(jnp.float32), group, -1)
    shape = hidden.shape
    hidden = (hidden * scale[..., : shape[-1]]).reshape(-1, shape[-1])
    places, outliers = (
        fields[name].reshape(hidden.shape[0], -1) for name in ("outlier_channels", "outliers")
    )
    # Added, not set: a blank position names channel 0 several times.
    rows = jnp.arange(hidden.shape[0])[:, None]
    return hidden.at[rows, places.astype(jnp.int32)].add(outliers).reshape(shape)
