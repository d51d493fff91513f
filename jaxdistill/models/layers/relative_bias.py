"""Relative positions in buckets, and the bias they add to attention scores (T5)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdistill.models.layers.basic import parameter


def buckets(distance: np.ndarray, *, count: int, longest: int, bidirectional: bool) -> np.ndarray:
    """Return the bucket of each distance, key position minus query position, as int32.

    Half of the buckets hold one distance each, the others logarithmically more up to `longest`;
    all beyond share the last (Raffel et al. 2020, section 2.1). Where `bidirectional`, one half of
    all buckets is for keys behind the query and the other for those ahead; else keys ahead count
    as distance 0.
    """
    distance = np.asarray(distance, np.int64)
    start = np.zeros_like(distance)
    if bidirectional:
        count //= 2
        start = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    # In float32, as the checkpoints were trained: a distance on an edge must not change sides.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(longest / exact)) * np.float32(count - exact)
    far = np.minimum(exact + ratio.astype(np.int64), count - 1)
    return (start + np.where(distance < exact, distance, far)).astype(np.int32)


class RelativeBias(nnx.Module):
    """One learned number per bucket and head, shared by all layers of a stack."""

    def __init__(
        self,
        heads: int,
        rngs: nnx.Rngs,
        *,
        count: int,
        longest: int,
        bidirectional: bool,
        stddev: float,
    ) -> None:
        table = jax.random.normal(rngs.params(), (count, heads), jnp.float32) * stddev
        self.table = parameter(table, (None, "heads"))
        self.count = count
        self.longest = longest
        self.bidirectional = bidirectional

    def __call__(self, queries: int, keys: int) -> jax.Array:
        """Return `[1, H, queries, keys]`, both counted from position 0."""
        distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
        return self._of(jnp.asarray(self._buckets(distance)))

    def at(self, position: jax.Array, keys: int) -> jax.Array:
        """Return `[1, H, 1, keys]` for a query at a position known only when the program runs."""
        every = jnp.asarray(self._buckets(np.arange(1 - keys, keys)))
        index = jnp.arange(keys, dtype=jnp.int32) - position + (keys - 1)
        return self._of(every[index][None])

    def _buckets(self, distance: np.ndarray) -> np.ndarray:
        return buckets(
            distance, count=self.count, longest=self.longest, bidirectional=self.bidirectional
        )

    def _of(self, chosen: jax.Array) -> jax.Array:
        return jnp.take(self.table[...], chosen, axis=0).transpose(2, 0, 1)[None]
