"""Averages carried as totals and weights, divided once at the end."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted average before its division: `value() = total / weight`.

    Means of parts (tokens, microbatches, devices, buckets, evaluation batches) add up to the mean
    of the whole, so a loss does not depend on how a batch was split or padded.

    Attributes:
      total: scalar float32, sum of weight times value.
      weight: scalar float32, sum of weights.
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array, where: jax.Array | None = None) -> Mean:
        """Sum `values` in float32, weighted by `where` of the same shape (bool or float; None = 1).

        Entries with weight 0 take no part, not even when they are NaN or infinite.

        Raises:
          ValueError: shapes differ.
        """
        values = values.astype(jnp.float32)
        if where is None:
            return cls(values.sum(), jnp.float32(values.size))
        if where.shape != values.shape:
            raise ValueError(
                f"where: got shape {where.shape}, expected that of values, {values.shape}"
            )
        weights = where.astype(jnp.float32)
        kept = jnp.where(weights > 0, values, jnp.zeros_like(values))
        return cls((kept * weights).sum(), weights.sum())

    @classmethod
    def single(cls, value: ArrayLike) -> Mean:
        """Carry one scalar with weight 1."""
        return cls(jnp.asarray(value, jnp.float32), jnp.float32(1))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self) -> jax.Array:
        """Return `total / weight`, and 0 where the weight is 0."""
        empty = self.weight == 0
        return jnp.where(empty, 0.0, self.total / jnp.where(empty, 1.0, self.weight))
