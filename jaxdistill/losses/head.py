"""The last projection: what hidden states become logits by, for models, losses and caches alike.

The logits are `cap(scale (hidden @ weights + bias))` with `cap(x) = softcap tanh(x / softcap)`
(Gemma Team 2024, section 2), or `cap(x) = x` without a softcap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


class Constants(NamedTuple):
    """The static half of a projection, as in `Projection`."""

    scale: float = 1.0
    softcap: float | None = None
    transposed: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """The last projection of a model: ``logits = softcap(scale * (hidden @ weights + bias))``.

    Attributes:
      weights: `[D, V]`.
      bias: `[V]` or None.
      softcap: static; `logits = softcap * tanh(logits / softcap)` when set.
      scale: static factor on the logits.
    """

    weights: jax.Array
    bias: jax.Array | None = None
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})

    @property
    def constants(self) -> Constants:
        """The static half."""
        return Constants(self.scale, self.softcap)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """What logits are made of: `softcap(scale * (hidden @ weights + bias))`.

    Attributes:
      hidden: `[..., D]`, any float dtype; the products are computed in it.
      weights: `[D, V]`, or `[V, D]` when `transposed`. Cast to the dtype of `hidden`; their
        gradient comes in their own.
      bias: `[V]` or None.
      scale: static factor on the logits.
      softcap: static; `softcap * tanh(logits / softcap)` when set.
      transposed: static; the weights are an embedding `[V, D]`, as of tied heads.
    """

    hidden: jax.Array
    weights: jax.Array
    bias: jax.Array | None = None
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    transposed: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def constants(self) -> Constants:
        """The static half."""
        return Constants(self.scale, self.softcap, self.transposed)


def logits_of(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None,
    constants: Constants,
    *,
    dtype: DTypeLike = jnp.float32,
    multiply: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Return the logits `[..., V]` of hidden states `[..., D]`, as the module says.

    Args:
      hidden: any float dtype; the product is computed in it.
      weights: `[D, V]`, or `[V, D]` where the constants say so.
      bias: `[V]` or None.
      constants: factor, softcap and layout of the weights.
      dtype: type that products are summed in and the logits have.
      multiply: `(hidden, weights, preferred_element_type=...)`, for `[D, V]` weights that lie on
        several devices; None: the product of both as they are.
    """
    return capped(raw_logits(hidden, weights, bias, constants, dtype, multiply), constants)


def raw_logits(
    hidden: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None,
    constants: Constants,
    dtype: DTypeLike = jnp.float32,
    multiply: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Return `hidden @ weights + bias`, `[..., V]`: the arguments are those of `logits_of`."""
    weights = weights.astype(hidden.dtype)
    if multiply is not None:
        raw = multiply(hidden, weights, preferred_element_type=dtype)
    else:
        along = ((hidden.ndim - 1,), (1 if constants.transposed else 0,))
        raw = lax.dot_general(hidden, weights, (along, ((), ())), preferred_element_type=dtype)
    if bias is None:
        return raw
    return raw + bias.astype(dtype).reshape((1,) * (raw.ndim - 1) + bias.shape)


def capped(raw: jax.Array, constants: Constants) -> jax.Array:
    """Return the logits of what `raw_logits` gives, the same shape: scaled and capped."""
    logits = raw if constants.scale == 1.0 else raw * constants.scale
    if constants.softcap is None:
        return logits
    return constants.softcap * jnp.tanh(logits / constants.softcap)


def raw_gradient(gradient: jax.Array, logits: jax.Array, constants: Constants) -> jax.Array:
    """Return the gradient to what `capped` reads from that to the logits it gave, both `[..., V]`.

    `gradient scale (1 - (logits / softcap)²)`; 0 where a logit is -inf, which is padding.
    """
    if constants.softcap is not None:
        ratio = logits / constants.softcap
        gradient = gradient * jnp.where(jnp.isfinite(ratio), 1.0 - ratio * ratio, 0.0)
    return gradient if constants.scale == 1.0 else gradient * constants.scale


def without_padding(logits: jax.Array, vocabulary: int, first: int | jax.Array = 0) -> jax.Array:
    """Set the columns of a head that are no classes to -inf.

    Args:
      logits: `[..., V]`.
      vocabulary: the real number of classes; whatever comes behind them is padding.
      first: class of the first column, a number or traced.
    """
    columns = first + lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(columns < vocabulary, logits, -jnp.inf)
