"""A fixed number of classes with weights whose expectation is the distribution itself.

Draws with replacement, as in arXiv 2503.16870, name likely classes again and again. Here each slot
is another class: those with a probability of at least a threshold are kept with their probability,
and of the others class c is kept with chance `p_c / threshold` and weight `threshold`. The
expected weight of c is p_c either way (Horvitz and Thompson 1952), and no other such scheme of
this size has a smaller sum of variances (Duffield, Lund and Thorup 2007, arXiv cs/0509026). The
others are drawn by systematic sampling, so that exactly the wanted number is drawn and the weights
sum to 1: no noise reaches the student's normalizer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BLOCK = 256
LEAST = 1e-5
"""The smallest threshold; classes below it are left to chance even where there is room."""


def sample(
    probabilities: jax.Array, uniform: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw `count` different classes of every row.

    Args:
      probabilities: float32 `[N, V]`, rows sum to 1 (or are all 0).
      uniform: `[N]` random numbers in [0, 1).
      count: slots per row, at most V.

    Returns:
      ids int32 `[N, count]`, the certain ones first and in falling order; weights `[N, count]`,
      0 in unused slots; the threshold `[N]`.
    """
    top, top_ids = jax.lax.top_k(probabilities, count)  # [N, k]
    certain, threshold = _split(top, jnp.sum(probabilities, -1))
    kept = jnp.arange(count)[None, :] < certain[:, None]  # [N, k]
    rest = _without(probabilities, jnp.where(kept, top_ids, probabilities.shape[-1]))
    drawn, found = _systematic(rest / threshold[:, None], uniform, count, certain)
    ids = jnp.where(kept, top_ids, drawn)
    weights = jnp.where(kept, top, jnp.where(found, threshold[:, None], 0.0))
    return ids, weights, threshold


def _split(top: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return how many of the top classes are certain `[N]`, and the threshold `[N]`."""
    count = top.shape[-1]
    before = jnp.cumsum(top, -1) - top  # mass of the larger ones
    left = jnp.maximum(total[:, None] - before, 0.0)
    slots = (count - jnp.arange(count))[None, :]
    # Once a class fits below the threshold of those left, all smaller ones do.
    fits = top * slots <= left
    certain = jnp.argmax(fits, -1)  # the last one always fits
    certain = jnp.where(jnp.any(fits, -1), certain, count - 1)
    at = certain[:, None]
    threshold = jnp.take_along_axis(left, at, -1)[:, 0] / (count - certain)
    threshold = jnp.maximum(threshold, LEAST)
    return jnp.sum(top >= threshold[:, None], -1), threshold


def _without(probabilities: jax.Array, ids: jax.Array) -> jax.Array:
    rows = jnp.arange(ids.shape[0])[:, None]
    return probabilities.at[rows, ids].set(0.0, mode="drop")


def _systematic(
    chances: jax.Array, uniform: jax.Array, count: int, certain: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Walk along the running sum of the chances `[N, V]` in steps of 1 from `uniform`.

    Sums of blocks come first, then those within one block: a float32 running sum over a whole
    vocabulary would lose the chances of its rarest classes.

    Returns:
      ids `[N, count]` and whether the slot's point lies on the line; slots before `certain` are
      not looked at.
    """
    rows, classes = chances.shape
    blocks = jnp.pad(chances, ((0, 0), (0, -classes % _BLOCK))).reshape(rows, -1, _BLOCK)
    ends = jnp.cumsum(jnp.sum(blocks, -1), -1)  # [N, blocks]
    points = uniform[:, None] + jnp.arange(count)[None, :] - certain[:, None]  # [N, k]
    block = jnp.sum(ends[:, None, :] <= points[:, :, None], -1)
    found = block < ends.shape[-1]
    block = jnp.minimum(block, ends.shape[-1] - 1)
    starts = jnp.pad(ends, ((0, 0), (1, 0)))
    inner = points - jnp.take_along_axis(starts, block, -1)
    within = jnp.cumsum(jnp.take_along_axis(blocks, block[:, :, None], 1), -1)  # [N, k, BLOCK]
    place = jnp.sum(within <= inner[:, :, None], -1)
    # Where rounding left a block a little short, its last class with a chance is meant.
    final = jnp.argmax(within >= within[:, :, -1:], -1)
    return block * _BLOCK + jnp.minimum(place, final), found
