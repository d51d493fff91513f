"""Divergences between the student's and the teacher's distribution, per row and unreduced.

One set of rules for all of them:

- Everything is computed in float32 (float64 where an input is float64), whatever comes in.
- `where` removes classes on both sides, as if they had been sliced away. Values of removed classes
  are never looked at and get no gradient.
- A logit at -inf (or finfo.min) is a class of probability 0. Where one side then divides by a zero
  of the other, the value is +inf and the gradient is finite: a class at -inf takes no gradient and
  its log-probability counts as the constant log(finfo.tiny). Values and gradients are never NaN
  unless a kept logit is NaN or +inf.
- A row in which the teacher has no class left is 0 with gradient 0. A row in which only the
  student has none is +inf. (`mse_logits` has another rule for -inf: it compares logits.)
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.losses.numerics import (
    ABSENT,
    Scaled,
    check_between,
    check_mask,
    check_shape,
    compute_dtype,
    kl,
    mixture_kl,
    scaled,
    softmax,
)

_SAME_CLASSES = "student and teacher must have the same rows and classes in the same order"


def forward_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of the student from the teacher, `T² KL(teacher || student)`.

    `T² sum_c p_c (log p_c - log q_c)` with `p = softmax(teacher_logits / T)` and
    `q = softmax(student_logits / T)`, in nats. The gradient to the student's logits is
    `T (q - p)`. T² keeps that gradient's size when the temperature changes (Hinton, Vinyals and
    Dean 2015, arXiv 1503.02531, section 2.1). It covers all modes of the teacher.

    Args:
      student_logits: `[..., C]`, any float dtype.
      teacher_logits: same shape.
      temperature: positive scalar T, a number or traced.
      axis: the class axis.
      where: bool, same shape: classes to keep.

    Returns:
      `[...]` float32 (float64 for float64 inputs), at least 0. +inf where the teacher gives
      probability to a class whose student logit is -inf.

    Raises:
      ModelError: shapes differ.
      ConfigError: the temperature is not a positive scalar.
      DataError: `where` is not bool or has another shape.
    """
    student, teacher = _pair(student_logits, teacher_logits, temperature, axis, where)
    value = kl(teacher, student, axis)
    return _squared(temperature, value) * _defined(value, student, teacher, axis)


def reverse_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of the teacher from the student, `T² KL(student || teacher)`.

    `T² sum_c q_c (log q_c - log p_c)` with p and q as in `forward_kl`, in nats; the same T² for the
    same reason. It seeks modes: the student is free to ignore what the teacher finds likely, and
    pays for what the teacher finds unlikely (MiniLLM, Gu et al. 2024, arXiv 2306.08543,
    section 2.1).

    Args, Returns and Raises as `forward_kl`; +inf where the student gives probability to a class
    whose teacher logit is -inf.
    """
    student, teacher = _pair(student_logits, teacher_logits, temperature, axis, where)
    value = kl(student, teacher, axis)
    return _squared(temperature, value) * _defined(value, student, teacher, axis)


def jsd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    beta: ArrayLike = 0.5,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Generalized Jensen-Shannon divergence, `T² (beta KL(p || m) + (1 - beta) KL(q || m))`.

    p is the teacher, q the student, both at temperature T, and `m = beta p + (1 - beta) q`
    (GKD, Agarwal et al. 2024, arXiv 2306.13649, section 2). `beta` is the TEACHER's share of m.
    Direction: `jsd / beta -> forward_kl` as beta -> 0, and `jsd / (1 - beta) -> reverse_kl` as
    beta -> 1. The value itself tends to 0 at both ends, so beta also sets the strength; for the
    pure directions call `forward_kl` and `reverse_kl`. beta = 0.5 is the symmetric divergence.

    Args:
      student_logits: `[..., C]`, any float dtype.
      teacher_logits: same shape.
      beta: scalar strictly between 0 and 1, a number or traced.
      temperature, axis, where: arguments of `forward_kl`.

    Returns:
      `[...]`, between 0 and `T² log 2`: finite also for -inf logits.

    Raises:
      ConfigError: beta is 0, 1 or outside.
      Others as `forward_kl`.
    """
    check_between("beta", beta, 0, 1, "the ends are forward_kl (0) and reverse_kl (1): use those")
    student, teacher = _pair(student_logits, teacher_logits, temperature, axis, where)
    value = mixture_kl(jnp.asarray(beta, student.logits.dtype), teacher, student, axis)
    return _squared(temperature, value) * _defined(value, student, teacher, axis)


def total_variation(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Total variation distance, `1/2 sum_c |p_c - q_c|` with p and q as in `forward_kl`.

    The largest difference in probability the two give to any set of classes. No factor of the
    temperature: the value is a probability in [0, 1], and its gradient shrinks as 1 / T.
    The gradient where p_c = q_c (to rounding) is 0 (Wen et al. 2023, arXiv 2307.15190).

    Args, Returns and Raises as `forward_kl`; finite also for -inf logits.
    """
    student, teacher = _pair(student_logits, teacher_logits, temperature, axis, where)
    p, q = (softmax(side, axis).probabilities for side in (teacher, student))
    difference = q - p
    # The gradient is the sign, which of rounding errors alone would be a full-sized random step.
    rounding = 16 * jnp.finfo(difference.dtype).eps * p
    difference = jnp.where(jnp.abs(difference) <= rounding, 0.0, difference)
    value = 0.5 * jnp.sum(jnp.abs(difference), axis)
    return _defined(value, student, teacher, axis)


def mse_logits(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Mean squared difference of logits, `1/C sum_c (student_c - teacher_c)²`.

    No temperature: dividing both sides by T and multiplying by T² changes nothing. For logits with
    equal means it is twice the limit of `forward_kl` for T -> inf (arXiv 1503.02531, section 2.1;
    Kim et al. 2021, arXiv 2105.08919). Unlike the divergences it also matches a constant added to
    all logits.

    Args:
      student_logits: `[..., C]`, any float dtype.
      teacher_logits: same shape.
      axis: the class axis.
      where: bool, same shape: classes to keep; C counts those.

    Returns:
      `[...]`. Classes at -inf on both sides count as removed; a class at -inf on one side only
      gives +inf and takes no gradient.

    Raises:
      ModelError: shapes differ.
      DataError: `where` is not bool or has another shape.
    """
    student, teacher, where = _inputs(student_logits, teacher_logits, where)
    # As in numerics.distribution, but on the logits themselves: written so that NaN is present.
    has_student, has_teacher = ~(student <= ABSENT), ~(teacher <= ABSENT)
    kept = has_student | has_teacher if where is None else where & (has_student | has_teacher)
    both = kept & has_student & has_teacher
    difference = jnp.where(both, student, 0.0) - jnp.where(both, teacher, 0.0)
    count = jnp.sum(kept, axis).astype(difference.dtype)
    value = jnp.sum(difference * difference, axis) / jnp.maximum(count, 1.0)
    return value + jax.lax.stop_gradient(_infinite_where(jnp.any(kept & ~both, axis), value))


def bernoulli_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Forward KL per label of a multi-label model, `T² KL(Bernoulli(p) || Bernoulli(q))`.

    `T² (p log(p / q) + (1 - p) log((1 - p) / (1 - q)))` with `p = sigmoid(teacher_logits / T)` and
    `q = sigmoid(student_logits / T)`; the gradient to the student's logits is `T (q - p)`, T² as in
    `forward_kl`.

    Args:
      student_logits: `[..., C]`, any float dtype.
      teacher_logits: same shape.
      temperature: positive scalar T, a number or traced.
      where: bool, same shape: labels to keep; others are 0 with gradient 0.

    Returns:
      `[..., C]`: not summed over labels. Logits of -inf and +inf are probabilities 0 and 1; +inf
      where the student is certain of what the teacher is not.

    Raises:
      As `forward_kl`.
    """
    _check_temperature(temperature)
    student, teacher, where = _inputs(student_logits, teacher_logits, where)
    if where is not None:
        student, teacher = jnp.where(where, student, 0.0), jnp.where(where, teacher, 0.0)
    student, teacher = (
        scaled(_two_classes(logits), temperature=temperature) for logits in (student, teacher)
    )
    value = kl(teacher, student, -1)
    return _squared(temperature, value) * value


def _two_classes(logits: jax.Array) -> jax.Array:
    """Logits [..., 2] whose softmax is (sigmoid(x), sigmoid(-x)), also for x = ±inf."""
    return jnp.stack([jnp.minimum(logits, 0.0), -jnp.maximum(logits, 0.0)], -1)


def _check_temperature(temperature: ArrayLike) -> None:
    check_between("temperature", temperature, 0, math.inf, "1 leaves the logits as they are")


def _inputs(
    student_logits: ArrayLike, teacher_logits: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    check_shape("teacher_logits", teacher, student.shape, f"{_SAME_CLASSES} (student's shape)")
    dtype = compute_dtype(student, teacher)
    return student.astype(dtype), teacher.astype(dtype), check_mask(where, student.shape)


def _pair(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike,
    axis: int,
    where: ArrayLike | None,
) -> tuple[Scaled, Scaled]:
    _check_temperature(temperature)
    student, teacher, where = _inputs(student_logits, teacher_logits, where)
    return (
        scaled(student, temperature=temperature, axis=axis, where=where),
        scaled(teacher, temperature=temperature, axis=axis, where=where),
    )


def _defined(value: jax.Array, student: Scaled, teacher: Scaled, axis: int) -> jax.Array:
    """Settle rows without a distribution: 0 without a teacher, +inf with only a teacher."""
    has_student, has_teacher = jnp.any(student.support, axis), jnp.any(teacher.support, axis)
    value = jnp.where(has_teacher, value, 0.0)
    return value + jax.lax.stop_gradient(_infinite_where(has_teacher & ~has_student, value))


def _infinite_where(condition: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.where(condition, jnp.inf, 0.0).astype(like.dtype)


def _squared(temperature: ArrayLike, like: jax.Array) -> jax.Array:
    return jnp.square(jnp.asarray(temperature, like.dtype))
