"""Softmax with a support, KL term by term, and the checks of shapes and values all losses share."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike, DTypeLike

from jaxdistill.errors import ConfigError, DataError, ModelError

# A log-probability this low comes from -inf or from finfo.min used as a mask, never from a model.
ABSENT = -1e20
_NEAR = 0.1  # |log p - log q| under which the KL term is taken from its series


class Scaled(NamedTuple):
    """Logits over their temperature, ready for a softmax.

    Attributes:
      logits: `[..., C]`, shifted so that the largest of a row is 0; 0 outside the support.
      support: same shape, bool: the classes that can occur at all, neither masked nor at -inf.
    """

    logits: jax.Array
    support: jax.Array


class Distribution(NamedTuple):
    """Probabilities over classes with the classes that can occur at all.

    Attributes:
      log_probabilities: `[..., C]`; a finite constant outside the support.
      probabilities: same shape, exactly 0 outside the support.
      support: same shape, bool.
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


def scaled(
    logits: jax.Array,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: jax.Array | None = None,
) -> Scaled:
    """Divide by the temperature and find the support; masked classes are never looked at.

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
    return Scaled(jnp.where(support, shifted, 0.0) / temperature, support)


def softmax(scaled: Scaled, axis: int) -> Distribution:
    """Softmax over the support.

    Other classes have probability 0, a constant log-probability of log(finfo.tiny) (-87.3 in
    float32) and no gradient. A row without any class has all probabilities 0. NaN and +inf logits
    of kept classes give NaN, so that a diverged model is seen.
    """
    exponentials = jnp.where(scaled.support, jnp.exp(scaled.logits), 0.0)
    total = jnp.sum(exponentials, axis, keepdims=True)  # [..., 1]
    total = jnp.where(total == 0, 1.0, total)
    floor = math.log(jnp.finfo(exponentials.dtype).tiny)
    log_probabilities = jnp.where(scaled.support, scaled.logits - jnp.log(total), floor)
    return Distribution(log_probabilities, exponentials / total, scaled.support)


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


# The derivatives below are written out because they are much simpler than what differentiating
# `kl_terms` gives: one saved tensor per row instead of eight.


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def kl(p: Scaled, q: Scaled, axis: int) -> jax.Array:
    """KL(softmax(p) || softmax(q)) over `axis`, `[..., C]` to `[...]`, as `kl_terms`."""
    return jnp.sum(kl_terms(softmax(p, axis), softmax(q, axis)), axis)


@functools.partial(kl.defjvp, symbolic_zeros=True)
def _kl_jvp(axis, primals, tangents):
    p, q = (softmax(x, axis) for x in primals)
    value = jnp.sum(kl_terms(p, q), axis)
    slopes = []
    if not isinstance(tangents[1].logits, SymbolicZero):
        reached = jnp.where(q.support, p.probabilities, 0.0)
        mass = jnp.sum(reached, axis, keepdims=True)
        slopes.append((q.probabilities * mass - reached) * tangents[1].logits)
    if not isinstance(tangents[0].logits, SymbolicZero):
        ratio = p.log_probabilities - q.log_probabilities
        slopes.append(_centred(p.probabilities, ratio, axis) * tangents[0].logits)
    return value, sum((jnp.sum(slope, axis) for slope in slopes), jnp.zeros_like(value))


def mix(beta: jax.Array, p: Distribution, q: Distribution) -> Distribution:
    """The mixture `beta p + (1 - beta) q`, its logarithm taken from theirs."""
    return Distribution(
        jnp.logaddexp(
            jnp.log(beta) + p.log_probabilities,
            jnp.log1p(-beta) + q.log_probabilities,
        ),
        beta * p.probabilities + (1 - beta) * q.probabilities,
        p.support | q.support,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def mixture_kl(beta: jax.Array, p: Scaled, q: Scaled, axis: int) -> jax.Array:
    """`beta KL(p || m) + (1 - beta) KL(q || m)` with `m = beta p + (1 - beta) q`."""
    to_p, to_q, _, _ = _mixture_parts(beta, p, q, axis)
    return beta * to_p + (1 - beta) * to_q


@functools.partial(mixture_kl.defjvp, symbolic_zeros=True)
def _mixture_kl_jvp(axis, primals, tangents):
    beta, p, q = primals
    to_p, to_q, (p, q), mixture = _mixture_parts(beta, p, q, axis)
    value = beta * to_p + (1 - beta) * to_q
    slopes = []
    # m is the minimizer of the value, so only the explicit p, q and beta move it.
    for side, share, tangent in ((p, beta, tangents[1]), (q, 1 - beta, tangents[2])):
        if not isinstance(tangent.logits, SymbolicZero):
            ratio = side.log_probabilities - mixture.log_probabilities
            slope = share * _centred(side.probabilities, ratio, axis)
            slopes.append(jnp.sum(slope * tangent.logits, axis))
    if not isinstance(tangents[0], SymbolicZero):
        slopes.append((to_p - to_q) * tangents[0])
    return value, sum(slopes, jnp.zeros_like(value))


def _mixture_parts(
    beta: jax.Array, p: Scaled, q: Scaled, axis: int
) -> tuple[jax.Array, jax.Array, tuple[Distribution, Distribution], Distribution]:
    sides = softmax(p, axis), softmax(q, axis)
    mixture = mix(beta, *sides)
    to_p, to_q = (jnp.sum(kl_terms(side, mixture), axis) for side in sides)
    return to_p, to_q, sides, mixture


def _centred(probabilities: jax.Array, values: jax.Array, axis: int) -> jax.Array:
    """Gradient to the logits of an average of `values`: `p (values - sum p values)`."""
    return probabilities * (values - jnp.sum(probabilities * values, axis, keepdims=True))
