"""Softmax with a support, KL term by term, and the checks of shapes and values all losses share."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdistill.errors import ConfigError, DataError, ModelError

# A log-probability this low comes from -inf or from finfo.min used as a mask, never from a model.
ABSENT = -1e20
_NEAR = 0.1  # |log p - log q| under which the KL term is taken from its series


class Distribution(NamedTuple):
    """Probabilities over classes with the classes that can occur at all.

    Attributes:
      log_probabilities: same shape as the logits; a finite constant outside the support.
      probabilities: same shape, exactly 0 outside the support.
      support: same shape, bool: neither masked nor at -inf.
    """

    log_probabilities: jax.Array
    probabilities: jax.Array
    support: jax.Array


def compute_dtype(*arrays: jax.Array) -> DTypeLike:
    """Return float32, or float64 when an input is float64."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def check_shape(name: str, array: jax.Array, expected: tuple[int, ...], fix: str) -> None:
    """Raise ModelError naming the array, the shape got, the shape expected and the fix."""
    if array.shape != expected:
        raise ModelError(f"{name}: got shape {array.shape}, expected {expected}; {fix}")


def check_mask(where: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array | None:
    """Return `where` as a bool array of exactly this shape.

    Raises:
      DataError: another dtype or shape.
    """
    if where is None:
        return None
    mask = jnp.asarray(where)
    if mask.dtype != jnp.bool_:
        raise DataError(f"where: got dtype {mask.dtype}, expected bool; pass `mask > 0`")
    if mask.shape != shape:
        raise DataError(
            f"where: got shape {mask.shape}, expected {shape}; "
            "losses never broadcast, use jnp.broadcast_to"
        )
    return mask


def check_between(
    name: str, value: ArrayLike, low: float, high: float, fix: str, *, include_low: bool = False
) -> None:
    """Check `low < value < high` for a plain number, and that anything else is a scalar.

    Raises:
      ConfigError: out of range or not a scalar. The value of a traced scalar is not looked at.
    """
    if jnp.ndim(value) != 0:
        raise ConfigError(f"{name}: got shape {jnp.shape(value)}, expected a scalar; {fix}")
    if not isinstance(value, int | float | np.number):
        return
    if not (low < value < high or (include_low and value == low)):
        bracket = "[" if include_low else "("
        raise ConfigError(
            f"{name}: got {value}, expected a number in {bracket}{low}, {high}); {fix}"
        )


def distribution(
    logits: jax.Array,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: jax.Array | None = None,
) -> Distribution:
    """Softmax of `logits / temperature` over the classes of `where`, defined for -inf logits.

    Classes that are masked or at -inf have probability 0, a constant log-probability of
    log(finfo.tiny) (-87.3 in float32) and no gradient. A row without any class left has all
    probabilities 0. NaN and +inf logits of kept classes give NaN, so a diverged model is seen.

    Args:
      logits: `[..., C]` float32 or float64.
      temperature: positive scalar.
      axis: the class axis.
      where: bool, same shape; None keeps every class.
    """
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))  # [..., 1]
    highest = jnp.where(highest == -jnp.inf, 0.0, highest)
    temperature = jnp.asarray(temperature, logits.dtype)
    shifted = logits - highest
    # Written so that NaN counts as support; cut before the division, whose gradient to the
    # temperature would be 0 * inf.
    support = ~(shifted / temperature <= ABSENT)
    scaled = jnp.where(support, shifted, 0.0) / temperature
    exponentials = jnp.where(support, jnp.exp(scaled), 0.0)
    total = jnp.sum(exponentials, axis, keepdims=True)  # [..., 1]
    total = jnp.where(total == 0, 1.0, total)
    floor = math.log(jnp.finfo(logits.dtype).tiny)
    log_probabilities = jnp.where(support, scaled - jnp.log(total), floor)
    return Distribution(log_probabilities, exponentials / total, support)


def kl_terms(p: Distribution, q: Distribution) -> jax.Array:
    """Per-class terms `p (log p - log q) - p + q`, whose sum over classes is KL(p || q).

    The last two sum to zero over a row and make every term non-negative, so nothing cancels when
    p and q are close (high temperatures): near p = q the term is p times a series in
    `log p - log q`, without a difference of nearly equal numbers.

    A class with p > 0 that q cannot have gives +inf. Its gradient is that of the finite constant
    that stands for log q there: no NaN, and no gradient to the absent logit itself.
    """
    difference = p.log_probabilities - q.log_probabilities
    near = jnp.abs(difference) < _NEAR
    close = jnp.where(near, difference, 0.0)
    series = jnp.ones_like(close)
    for order in range(11, 2, -1):  # close + expm1(-close) = close**2 / 2 * series
        series = 1.0 - close / order * series
    terms = jnp.where(
        near,
        p.probabilities * (0.5 * close * close * series),
        p.probabilities * difference - (p.probabilities - q.probabilities),
    )
    unreachable = (p.probabilities > 0) & ~q.support
    return terms + jax.lax.stop_gradient(jnp.where(unreachable, jnp.inf, 0.0).astype(terms.dtype))
