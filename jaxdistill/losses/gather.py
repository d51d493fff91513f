"""Single classes of wide rows: gather them, mark them, and sum over those that are left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.losses.numerics import ABSENT, compute_dtype


def gather_classes(
    logits: jax.Array, ids: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return the logits at `ids` `[..., k]` and whether the student has such a class."""
    inside = (ids >= 0) & (ids < logits.shape[-1])
    index = jnp.where(inside, ids, 0)
    gathered = jnp.take_along_axis(logits, index, -1, mode="clip").astype(compute_dtype(logits))
    found = inside & ~(gathered <= ABSENT)
    if where is not None:
        found &= jnp.take_along_axis(where, index, -1, mode="clip")
    return gathered, found


def mark_classes(ids: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return bool `shape` `[..., V]`, True at `ids` `[..., k]`; ids outside [0, V) mark nothing."""
    ids = jnp.where(ids < 0, shape[-1], ids).reshape(-1, ids.shape[-1])
    rows = jnp.arange(ids.shape[0])[:, None]
    marks = jnp.zeros((ids.shape[0], shape[-1]), bool).at[rows, ids].set(True, mode="drop")
    return marks.reshape(shape)


def log_sum_exp(logits: jax.Array, temperature: ArrayLike, where: jax.Array | None) -> jax.Array:
    """`log sum_c exp(logits / T)` over kept classes, `[..., V]` to `[...]`; -inf over none."""
    dtype = compute_dtype(logits)
    logits = logits.astype(dtype)
    kept = ~(logits <= ABSENT) if where is None else where & ~(logits <= ABSENT)
    highest = jax.lax.stop_gradient(jnp.max(jnp.where(kept, logits, -jnp.inf), -1, keepdims=True))
    highest = jnp.where(highest == -jnp.inf, 0.0, highest)  # [..., 1]
    scale = jnp.asarray(temperature, dtype)
    shifted = jnp.where(kept, logits - highest, 0.0) / scale
    total = jnp.sum(jnp.where(kept, jnp.exp(shifted), 0.0), -1)
    empty = total == 0
    value = jnp.log(jnp.where(empty, 1.0, total)) + highest[..., 0] / scale
    return jnp.where(empty, -jnp.inf, value)
