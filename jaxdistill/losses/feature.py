"""Losses between what the student and the teacher compute on the way: hidden states, attention.

All are unreduced over rows, tokens and heads, computed in float32 (float64 where an input is), and
none depends on a width: a wider layer does not weigh more.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxdistill.errors import ModelError
from jaxdistill.losses.numerics import (
    Distribution,
    check_mask,
    check_shape,
    compute_dtype,
    kl,
    kl_terms,
    scaled,
)


def hidden_mse(student_hidden: ArrayLike, teacher_hidden: ArrayLike) -> jax.Array:
    """Mean squared difference of hidden states over the width, `1/D sum_d (s_d - t_d)²`.

    The hint loss of FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2), as a mean so that
    it does not grow with the width. Padding is left to the caller's weights: one value per token.

    Args:
      student_hidden: `[..., D]`, any float dtype, already projected to the teacher's width.
      teacher_hidden: same shape.

    Returns:
      `[...]` float32 (float64 for float64 inputs).

    Raises:
      ModelError: shapes differ; says so when only the widths do.
    """
    student, teacher = _hidden_pair(student_hidden, teacher_hidden)
    return jnp.mean(jnp.square(student - teacher), -1)


def hidden_cosine(student_hidden: ArrayLike, teacher_hidden: ArrayLike) -> jax.Array:
    """Cosine distance of hidden states, `1 - cos(s, t)`, between 0 and 2.

    Computed as half the squared distance of the two unit vectors, which does not cancel when they
    are nearly equal (DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 2). A zero vector has
    cosine 0 to everything: value 1, gradient 0.

    Args, Returns and Raises as `hidden_mse`.
    """
    student, teacher = _hidden_pair(student_hidden, teacher_hidden)
    (student, has_student), (teacher, has_teacher) = _unit(student), _unit(teacher)
    distance = 0.5 * jnp.sum(jnp.square(student - teacher), -1)
    return jnp.where(has_student & has_teacher, distance, 1.0)


def attention_transfer(student_maps: ArrayLike, teacher_maps: ArrayLike) -> jax.Array:
    """Squared distance of normalized spatial attention, for convolutional features.

    `sum_x (Q_s(x) / |Q_s| - Q_t(x) / |Q_t|)²` with `Q(x) = sum_c A(x, c)²` over positions x
    (Zagoruyko and Komodakis 2017, arXiv 1612.03928, section 3.1, without the root of their norm).
    Channel counts may differ. An all-zero map has distance 2 and gradient 0.

    Args:
      student_maps: `[B, H, W, C]`, any float dtype.
      teacher_maps: `[B, H, W, C']`.

    Returns:
      `[B]`, between 0 and 2.

    Raises:
      ModelError: not 4-dimensional, or batch, height or width differ.
    """
    student, teacher = jnp.asarray(student_maps), jnp.asarray(teacher_maps)
    if student.ndim != 4:
        raise ModelError(
            f"student_maps: got shape {student.shape}, expected [B, H, W, C]; "
            "use hidden_mse for features without positions"
        )
    fix = "batch and positions must agree (pool or resize the larger map), channels may differ"
    check_shape("teacher_maps", teacher, student.shape[:3] + teacher.shape[3:4], fix)
    dtype = compute_dtype(student, teacher)

    def attention(maps: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(maps.astype(dtype)), -1).reshape(maps.shape[0], -1)  # [B, H*W]

    return 2 * hidden_cosine(attention(student), attention(teacher))


def attention_kl(
    student_probabilities: ArrayLike,
    teacher_probabilities: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of attention distributions over the keys, `KL(teacher || student)`.

    `sum_k p_k log(p_k / q_k) - p_k + q_k`, which is the KL divergence for rows that sum to one and
    stays non-negative for rows that do so only up to rounding (MiniLM, Wang et al. 2020,
    arXiv 2002.10957, section 3.1). A zero among softmax outputs is an underflow, so probabilities
    are floored at `finfo(dtype).tiny` of what came in: the value is finite and the gradient,
    at most 1 / tiny, fits the dtype; it is 0 below the floor.

    Args:
      student_probabilities: `[B, H, T, T]` (or any `[..., K]`), softmax over the last axis.
      teacher_probabilities: same shape: as many heads.
      where: bool, same shape: keys to keep. Nothing is renormalized: mask the keys that attention
        itself masked. A query without keys is 0 with gradient 0.

    Returns:
      `[B, H, T]`, in nats, per query; weigh padded queries with 0.

    Raises:
      ModelError: shapes differ.
      DataError: `where` is not bool or has another shape.
    """
    student, teacher = jnp.asarray(student_probabilities), jnp.asarray(teacher_probabilities)
    fix = "heads and positions must agree; minilm_relation compares unequal heads"
    check_shape("teacher_probabilities", teacher, student.shape, fix)
    where = check_mask(where, student.shape)
    dtype = compute_dtype(student, teacher)
    student, teacher = _floored(student, dtype, where), _floored(teacher, dtype, where)
    return jnp.sum(kl_terms(teacher, student), -1)


def minilm_relation(
    student_x: ArrayLike,
    teacher_x: ArrayLike,
    *,
    heads: int,
    where: ArrayLike | None = None,
) -> jax.Array:
    """KL divergence of self-relations, for queries, keys, values or hidden states of any width.

    `KL(R_t || R_s)` per relation head and position with `R = softmax(x xᵀ / sqrt(d))`, x split into
    `heads` relation heads of width d (MiniLMv2, Wang et al. 2021, arXiv 2012.15828, section 3.1).
    Widths and attention heads of student and teacher may differ.

    Args:
      student_x: `[B, T, D]`, any float dtype.
      teacher_x: `[B, T, D']`.
      heads: relation heads; divides D and D'.
      where: bool `[B, T]`, the real tokens, or `[B, T, T]`, the (query, key) pairs to relate, as
        for packed rows. None relates all.

    Returns:
      `[B, heads, T]`, in nats; 0 with gradient 0 for positions that are masked.

    Raises:
      ModelError: batch or length differ, or heads does not divide a width.
      DataError: `where` is not bool or has another shape.
    """
    student, teacher = jnp.asarray(student_x), jnp.asarray(teacher_x)
    for name, x in (("student_x", student), ("teacher_x", teacher)):
        if x.ndim != 3 or heads < 1 or x.shape[-1] % heads:
            raise ModelError(
                f"{name}: got shape {x.shape} for {heads} relation heads, expected [B, T, D] with "
                "D a multiple of them; choose heads that divide both widths"
            )
    fix = "batch and length must agree, widths may differ"
    check_shape("teacher_x", teacher, (*student.shape[:2], teacher.shape[2]), fix)
    batch, length = student.shape[:2]
    pairs = where is not None and jnp.ndim(where) == 3
    mask = check_mask(where, (batch, length, length) if pairs else (batch, length))
    if mask is not None:
        mask = mask if pairs else mask[:, :, None] & mask[:, None, :]  # [B, T, T]
        mask = jnp.broadcast_to(mask[:, None], (batch, heads, length, length))
    dtype = compute_dtype(student, teacher)
    student_relation, teacher_relation = (
        scaled(_relation(x, heads).astype(dtype), where=mask) for x in (student, teacher)
    )
    return kl(teacher_relation, student_relation, -1)


def _hidden_pair(
    student_hidden: ArrayLike, teacher_hidden: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    student, teacher = jnp.asarray(student_hidden), jnp.asarray(teacher_hidden)
    fix = "rows and tokens must agree"
    if student.shape[:-1] == teacher.shape[:-1]:
        fix = (
            f"widths differ ({student.shape[-1:]} and {teacher.shape[-1:]}): "
            "project the student's hidden states to the teacher's width first"
        )
    check_shape("teacher_hidden", teacher, student.shape, fix)
    dtype = compute_dtype(student, teacher)
    return student.astype(dtype), teacher.astype(dtype)


def _unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x [..., D] at length 1 (0 stays 0) and whether it was not zero [...]."""
    # Divided by the largest entry first so that squares neither overflow nor vanish.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
    zero = largest == 0
    x = x / jnp.where(zero, 1.0, largest)
    squares = jnp.sum(jnp.square(x), -1, keepdims=True)
    unit = x / jnp.sqrt(jnp.where(zero, 1.0, squares))
    return jnp.where(zero, 0.0, unit), ~zero[..., 0]


def _floored(probabilities: jax.Array, dtype: DTypeLike, where: jax.Array | None) -> Distribution:
    smallest = jnp.finfo(probabilities.dtype).tiny
    probabilities = probabilities.astype(dtype)
    if where is not None:
        probabilities = jnp.where(where, probabilities, 0.0)
    low = probabilities < smallest
    log_probabilities = jnp.log(jnp.where(low, smallest, probabilities).astype(dtype))
    return Distribution(log_probabilities, probabilities, jnp.ones_like(low))


def _relation(x: jax.Array, heads: int) -> jax.Array:
    """Scaled dot products of positions, `[B, T, D]` to `[B, heads, T, T]`, summed in float32."""
    batch, length, width = x.shape
    x = x.reshape(batch, length, heads, width // heads)
    products = jnp.einsum(
        "bqhd,bkhd->bhqk",
        x,
        x,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=compute_dtype(x),
    )
    return products / math.sqrt(width // heads)
