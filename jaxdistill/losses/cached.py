"""Divergences from a cached part of the teacher's distribution: its top k classes, or a sample.

**Top k.** The cache holds the log-probabilities of k classes and the mass of all others, the tail.
Nothing is renormalized. By default the tail is one more class, whose student probability is the
sum over all classes outside the k: the same as spreading the teacher's tail over them in
the student's own proportions. Every divergence of the k + 1 classes is a lower bound of the full
one (data processing inequality; for KL the log sum inequality, Cover and Thomas 2006, theorems
2.7.1 and 2.8.1), is 0 where the student equals the teacher, and moves mass between the k classes
and the tail exactly as the full one does. `tail="uniform"` spreads the tail evenly instead, which
also shapes the student inside the tail, but towards a distribution that is not the teacher's: where
the student equals the teacher, its gradient is not 0.

**Sampled.** The cache holds classes and weights whose expectation is the teacher's distribution, so
the expectation of the gradient is that of the full forward KL (arXiv 2503.16870).

Cached probabilities are those of the teacher AT THE TEMPERATURE T of the loss: `softmax(logits/T)`
with the same T, for a tail at another temperature cannot be known. -inf, masks and dtypes follow
the rules of `divergence`. Each loss is made from two things of the student, its logits at the
cached classes and its log-normalizer; the `_from_parts` forms take just those, so that a loss that
never builds the logits can use them.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError, DataError
from jaxdistill.losses import divergence
from jaxdistill.losses.gather import gather_classes, log_sum_exp, mark_classes
from jaxdistill.losses.numerics import (
    ABSENT,
    check_between,
    check_mask,
    check_shape,
    compute_dtype,
)

Tail = Literal["student", "uniform"]
_RESOLVED = 8.0  # a tail under this many eps of the whole is rounding error of the difference


def topk_forward_kl(
    student_logits: ArrayLike,
    ids: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    tail: Tail = "student",
) -> jax.Array:
    """Forward KL from the teacher's top k, `T² (sum_k p_k log(p_k / q_k) + t log(t / s))`.

    t is the teacher's mass outside the k classes and s the student's, `q = softmax(student_logits /
    T)`. A lower bound of `forward_kl`. With `tail="uniform"` the last term is
    `sum_{c outside k} t/n log(t / (n q_c))` over the n classes outside, which is larger by
    `t KL(uniform || q outside k)`.

    Args:
      student_logits: `[..., V]`, any float dtype.
      ids: integers `[..., k]`, distinct in a row. A class outside [0, V) counts as one whose
        student logit is -inf.
      log_probabilities: `[..., k]`, the teacher's `log softmax(logits / T)` at `ids`; -inf marks
        an unused slot.
      log_tail: `[...]`, log of the teacher's mass outside `ids`, -inf where there is none.
      temperature: positive scalar T, that of the cached probabilities.
      where: bool `[..., V]`: classes the student has; others count as -inf.
      tail: `student` or `uniform`.

    Returns:
      `[...]` float32 (float64 for float64 inputs), at least 0, in nats. A row whose slots and tail
      are all -inf (padding) is 0 with gradient 0.

    Raises:
      ModelError: shapes do not fit.
      ConfigError: the temperature is not a positive scalar, or another `tail`.
      DataError: `ids` are no integers, or `where` is not bool or has another shape.
    """
    if tail not in ("student", "uniform"):
        raise ConfigError(f"tail: got {tail!r}, expected 'student' or 'uniform'")
    student, teacher, inside = _topk(
        student_logits, ids, log_probabilities, log_tail, temperature, where
    )
    value = divergence.forward_kl(student, teacher)
    if tail == "uniform":
        spread = _uniform_excess(student_logits, inside, temperature, where)
        has_tail = teacher[..., -1] > ABSENT
        mass = jnp.where(has_tail, jnp.exp(jnp.where(has_tail, teacher[..., -1], 0.0)), 0.0)
        value += jnp.where(has_tail, mass * jnp.where(has_tail, spread, 0.0), 0.0)
    return _squared(temperature, value) * value


def topk_reverse_kl(
    student_logits: ArrayLike,
    ids: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Reverse KL from the teacher's top k, `T² (sum_k q_k log(q_k / p_k) + s log(s / t))`.

    A lower bound of `reverse_kl`. Args, Returns and Raises as `topk_forward_kl`; +inf where the
    student gives mass to a tail that the teacher does not have.
    """
    parts = _topk(student_logits, ids, log_probabilities, log_tail, temperature, where)
    value = divergence.reverse_kl(*parts[:2])
    return _squared(temperature, value) * value


def topk_jsd(
    student_logits: ArrayLike,
    ids: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    *,
    beta: ArrayLike = 0.5,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Generalized Jensen-Shannon divergence of k + 1 classes, a lower bound of `jsd`.

    `beta` is the teacher's share of the mixture, as in `jsd`. Others as `topk_forward_kl`.
    """
    parts = _topk(student_logits, ids, log_probabilities, log_tail, temperature, where)
    value = divergence.jsd(*parts[:2], beta=beta)
    return _squared(temperature, value) * value


def topk_total_variation(
    student_logits: ArrayLike,
    ids: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Total variation distance of k + 1 classes, a lower bound of `total_variation`.

    No factor of the temperature, as there. Others as `topk_forward_kl`.
    """
    parts = _topk(student_logits, ids, log_probabilities, log_tail, temperature, where)
    return divergence.total_variation(*parts[:2])


def topk_classes_from_parts(
    gathered_logits: ArrayLike,
    log_normalizer: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Student and teacher as logits of k + 1 classes, without the student's other logits.

    `T² forward_kl(*topk_classes_from_parts(...))` is `topk_forward_kl`; any divergence of
    `divergence` may stand there (at its own temperature 1).

    The student's tail is `log(exp(log_normalizer) - sum_k exp(logits_k / T))`, a difference: one
    below `8 eps` of the whole is taken as that. The error that this makes in a gradient is about
    `eps t / s`, so it matters only where the teacher's tail t is far above the student's s.

    Args:
      gathered_logits: `[..., k]`, the student's logits at the cached classes.
      log_normalizer: `[...]`, `logsumexp(student_logits / T)` over all classes.
      log_probabilities, log_tail, temperature: arguments of `topk_forward_kl`.

    Returns:
      Two arrays `[..., k + 1]`: the student's and the teacher's log-probabilities, tail last.
    """
    _check_temperature(temperature)
    gathered, normalizer = jnp.asarray(gathered_logits), jnp.asarray(log_normalizer)
    cached, tail = _cached(log_probabilities, log_tail, gathered.shape)
    check_shape("log_normalizer", normalizer, gathered.shape[:-1], "one per row of gathered_logits")
    dtype = compute_dtype(gathered, normalizer, cached)
    gathered, normalizer, cached, tail = (
        x.astype(dtype) for x in (gathered, normalizer, cached, tail)
    )
    present = (cached > ABSENT) & (gathered > ABSENT)
    scaled = jnp.where(present, gathered, 0.0) / jnp.asarray(temperature, dtype)
    log_q = jnp.where(present, scaled - normalizer[..., None], -jnp.inf)  # [..., k]
    inside = jnp.sum(jnp.where(present, jnp.exp(jnp.where(present, log_q, 0.0)), 0.0), -1)
    # Straight through the floor: the gradient stays that of the difference.
    left = 1.0 - inside
    floor = jnp.asarray(_RESOLVED * jnp.finfo(dtype).eps, dtype)
    left = left + jax.lax.stop_gradient(jnp.maximum(left, floor) - left)
    student = jnp.concatenate([log_q, jnp.log(left)[..., None]], -1)
    return student, jnp.concatenate([cached, tail[..., None]], -1)


def sampled_forward_kl(
    student_logits: ArrayLike,
    ids: ArrayLike,
    weights: ArrayLike,
    entropy: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Unbiased forward KL from sampled classes, `T² (-sum_i w_i log q_i - H(p))`.

    `q = softmax(student_logits / T)`. Where the expectation of the weights that fall on a class is
    its teacher probability at T, the expectation of value and gradient is that of `forward_kl`
    (Anshumann et al. 2025, arXiv 2503.16870, section 4). A single value may be negative.

    Args:
      student_logits: `[..., V]`, any float dtype.
      ids: integers `[..., k]`; a class may occur twice, its weights add up. A class outside [0, V)
        counts as one whose student logit is -inf.
      weights: `[..., k]`, at least 0, with sum 1; 0 marks an unused slot.
      entropy: `[...]`, the teacher's entropy at T in nats; None leaves the constant out, which
        gives the cross-entropy (times T²).
      temperature: positive scalar T, that of the sampled distribution.
      where: bool `[..., V]`: classes the student has; others count as -inf.

    Returns:
      `[...]` float32 (float64 for float64 inputs). +inf where a sampled class has student logit
      -inf, with a finite gradient. A row whose weights are all 0 (padding) is 0 with gradient 0.

    Raises:
      As `topk_forward_kl`.
    """
    _check_temperature(temperature)
    logits, ids, where = _student(student_logits, ids, where)
    gathered, found = gather_classes(logits, ids, where)
    log_normalizer = log_sum_exp(logits, temperature, where)
    gathered = jnp.where(found, gathered, -jnp.inf)
    return sampled_forward_kl_from_parts(
        gathered, log_normalizer, weights, entropy, temperature=temperature
    )


def sampled_forward_kl_from_parts(
    gathered_logits: ArrayLike,
    log_normalizer: ArrayLike,
    weights: ArrayLike,
    entropy: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """`sampled_forward_kl` from the student's logits at the sampled classes and its normalizer.

    Args:
      gathered_logits: `[..., k]`, the student's logits at the sampled classes.
      log_normalizer: `[...]`, `logsumexp(student_logits / T)` over all classes.
      weights, entropy, temperature: arguments of `sampled_forward_kl`.
    """
    _check_temperature(temperature)
    gathered, normalizer = jnp.asarray(gathered_logits), jnp.asarray(log_normalizer)
    shares = jnp.asarray(weights)
    check_shape("weights", shares, gathered.shape, "one weight per sampled class")
    check_shape("log_normalizer", normalizer, gathered.shape[:-1], "one per row of gathered_logits")
    dtype = compute_dtype(gathered, normalizer)
    gathered, normalizer, shares = (x.astype(dtype) for x in (gathered, normalizer, shares))
    used = shares > 0
    present = used & ~(gathered <= ABSENT)
    scaled = jnp.where(present, gathered, 0.0) / jnp.asarray(temperature, dtype)
    surprise = jnp.where(present, normalizer[..., None] - scaled, 0.0)
    value = jnp.sum(jnp.where(present, shares, 0.0) * surprise, -1)
    if entropy is not None:
        known = jnp.asarray(entropy)
        check_shape("entropy", known, normalizer.shape, "one per row of gathered_logits")
        value = value - jnp.where(jnp.any(used, -1), known.astype(dtype), 0.0)
    value = _squared(temperature, value) * value
    unreachable = jnp.any(used & ~present, -1)
    return value + jax.lax.stop_gradient(jnp.where(unreachable, jnp.inf, 0.0).astype(dtype))


def _topk(
    student_logits: ArrayLike,
    ids: ArrayLike,
    log_probabilities: ArrayLike,
    log_tail: ArrayLike,
    temperature: ArrayLike,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return student and teacher `[..., k + 1]`, and `[..., V]`: which classes are cached."""
    _check_temperature(temperature)
    logits, ids, where = _student(student_logits, ids, where)
    cached, tail = _cached(log_probabilities, log_tail, ids.shape)
    dtype = compute_dtype(logits, cached)
    used = cached > ABSENT
    gathered, found = gather_classes(logits, ids, where)
    # An unused slot must not take its class out of the tail: it points outside.
    slots = jnp.where(used, ids, logits.shape[-1])
    inside = mark_classes(slots, logits.shape)
    outside = ~inside if where is None else ~inside & where
    rest = log_sum_exp(logits, temperature, outside)
    gathered = jnp.where(found, gathered.astype(dtype), 0.0) / jnp.asarray(temperature, dtype)
    gathered = jnp.where(found & used, gathered, -jnp.inf)
    student = jnp.concatenate([gathered, rest.astype(dtype)[..., None]], -1)
    teacher = jnp.concatenate([cached.astype(dtype), tail.astype(dtype)[..., None]], -1)
    return student, teacher, inside


def _student(
    student_logits: ArrayLike, ids: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    logits, ids = jnp.asarray(student_logits), jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise DataError(f"ids: got dtype {ids.dtype}, expected integers that number the classes")
    expected = (*logits.shape[:-1], ids.shape[-1] if ids.ndim else 0)
    check_shape("ids", ids, expected, f"one row of ids per row of logits {logits.shape}")
    # A small dtype would wrap: the id that means "outside" is the number of classes.
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))
    return logits, ids, check_mask(where, logits.shape)


def _cached(
    log_probabilities: ArrayLike, log_tail: ArrayLike, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    cached, tail = jnp.asarray(log_probabilities), jnp.asarray(log_tail)
    check_shape("log_probabilities", cached, shape, "one per cached class")
    check_shape("log_tail", tail, shape[:-1], "one per row of cached classes")
    return cached, tail


def _uniform_excess(
    student_logits: ArrayLike,
    inside: jax.Array,
    temperature: ArrayLike,
    where: ArrayLike | None,
) -> jax.Array:
    """KL(uniform || student) within the classes that are not cached, `[...]`."""
    logits = jnp.asarray(student_logits)
    outside = ~inside if where is None else ~inside & jnp.asarray(where)
    level = jnp.where(outside, 0.0, -jnp.inf).astype(compute_dtype(logits))
    flat = logits.astype(compute_dtype(logits)) / jnp.asarray(temperature, compute_dtype(logits))
    return divergence.forward_kl(flat, level, where=outside)


def _check_temperature(temperature: ArrayLike) -> None:
    check_between("temperature", temperature, 0, math.inf, "1 leaves the logits as they are")


def _squared(temperature: ArrayLike, like: jax.Array) -> jax.Array:
    return jnp.square(jnp.asarray(temperature, like.dtype))
