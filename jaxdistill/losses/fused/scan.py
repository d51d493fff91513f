"""The scan over chunks of tokens under the fused losses: values and gradients in one pass.

A chunk's logits live only inside one step of the scan. The gradient is made there too, so that no
product with a head is computed twice; what the backward pass adds is the cotangent of the mix.
In the low-memory mode the head's gradient is left to a second pass over blocks of the vocabulary.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.losses.fused.chunk import (
    ArrayIndex,
    Operands,
    Plan,
    Side,
    Statistics,
    Totals,
    logits_of,
    slope_of,
    statistics_of,
    tokens_of,
    totals_of,
    vary,
)
from jaxdistill.losses.head import Constants
from jaxdistill.types import Tree


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixture(plan: Plan, student: Side, operands: Operands) -> tuple[jax.Array, Totals]:
    """Return `sum_k weight_k total_k`, which carries the gradients to `student`, and the totals.

    The totals carry none, and nothing else gets one.
    """
    operands = operands._replace(student=student)
    totals, *_ = _scan(plan, operands, hidden_gradient=False, head_gradient=False)
    return _mixed(operands, totals), totals


def _forward(plan: Plan, student: Side, operands: Operands):
    operands = operands._replace(student=student)
    low_memory = plan.block > 0
    totals, hidden, head, statistics = _scan(
        plan, operands, hidden_gradient=True, head_gradient=not low_memory
    )
    kept = (operands, statistics) if low_memory else None
    # Dtypes cannot be kept in residuals: empty arrays stand for them.
    like = jax.tree.map(lambda leaf: jnp.zeros((0,), leaf.dtype), student._replace(hidden=None))
    return (_mixed(operands, totals), totals), (hidden, head, kept, like)


def _backward(plan: Plan, residuals, cotangents) -> tuple[Side, None]:
    hidden, head, kept, like = residuals
    cotangent = cotangents[0]
    if kept is None:
        weights, bias = jax.tree.map(lambda leaf: leaf * cotangent, head)
    else:
        weights, bias = _head_gradient(plan, kept[0], kept[1], cotangent)
    gradient = Side(
        hidden * cotangent.astype(hidden.dtype),
        weights.astype(like.weights.dtype),
        None if bias is None else bias.astype(like.bias.dtype),
    )
    return gradient, None


mixture.defvjp(_forward, _backward)


def _mixed(operands: Operands, totals: Totals) -> jax.Array:
    return sum(w * total for w, total in zip(operands.weights, totals, strict=True))  # pyright: ignore


def _scan(plan: Plan, operands: Operands, *, hidden_gradient: bool, head_gradient: bool):
    """Go over the tokens once.

    Returns:
      The totals per term; the gradients of the mix to the student's hidden states `[N, D]` in their
      dtype, and to its head and bias in float32, or None where not asked for; the statistics
      `[N, 1]` where the head's gradient is left to another pass.
    """
    operands = _narrowed(operands)
    student = operands.student
    tokens = student.hidden.shape[0]
    dtype = operands.where.dtype
    statistics_later = hidden_gradient and not head_gradient
    first = _first_class(plan, operands)

    def zeros(shape, dtype=dtype, axes=plan.varying):
        return vary(jnp.zeros(shape, dtype), axes)

    def step(carry, index):
        totals, hidden, head, statistics = carry
        start, part = tokens_of(plan, operands, index, plan.chunk)
        logits = logits_of(plan, part, first)
        found = statistics_of(plan, part, logits)
        values = totals_of(plan, part, found)
        totals = tuple(total + value for total, value in zip(totals, values, strict=True))
        if hidden_gradient:
            slope = slope_of(plan, part, logits, found)  # [C, V]
            narrow = slope.astype(part.student.hidden.dtype)
            axis = 0 if plan.student.transposed else 1
            gradient = lax.dot_general(
                narrow,
                part.student.weights,
                (((1,), (axis,)), ((), ())),
                preferred_element_type=dtype,
            ).astype(hidden.dtype)
            # Tokens seen before have slope 0 here, so that adding leaves them as they are.
            here = lax.dynamic_slice_in_dim(hidden, start, plan.chunk)
            hidden = lax.dynamic_update_slice_in_dim(hidden, here + gradient, start, 0)
            if head_gradient:
                head = _add_to_head(plan, head, part, slope, narrow)
        if statistics_later:
            statistics = jax.tree.map(
                lambda whole, new: lax.dynamic_update_slice_in_dim(whole, new[:, 0], start, 0),
                statistics,
                found,
            )
        return (totals, hidden, head, statistics), None

    # Sums over classes are reduced over the axis that splits the classes.
    reduced = plan.varying - {plan.axis_name}
    statistics = None
    if statistics_later:
        shapes = jax.eval_shape(
            lambda: statistics_of(
                plan,
                part := tokens_of(plan, operands, 0, 1)[1],
                logits_of(plan, part, first),
            )
        )
        statistics = jax.tree.map(lambda leaf: zeros((tokens,), leaf.dtype, reduced), shapes)
    carry = (
        tuple(zeros((), axes=reduced) for _ in plan.rules),
        zeros(student.hidden.shape, student.hidden.dtype) if hidden_gradient else None,
        (
            zeros(student.weights.shape),
            None if student.bias is None else zeros(student.bias.shape),
        )
        if head_gradient
        else None,
        statistics,
    )
    steps = -(-tokens // plan.chunk)
    return lax.scan(step, carry, jnp.arange(steps))[0]


def _head_gradient(
    plan: Plan, operands: Operands, statistics: Statistics, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Gradient of the mix times `cotangent` to head and bias, block by block of the vocabulary.

    The logits are computed once more. A block is summed over all tokens in float32 before it is
    written in the dtype of the weights, so that no float32 array of the head's size exists.
    """
    weights_dtype, operands = operands.student.weights.dtype, _narrowed(operands)
    student = operands.student
    tokens, dtype = operands.where.shape[0], operands.where.dtype
    columns = _columns(plan, student.weights)
    size = min(plan.block, columns)
    chunk = min(max(plan.chunk, 1024), tokens)
    axis = 0 if plan.student.transposed else 1
    begin = _first_class(plan, operands)

    def zeros(shape, dtype):
        return vary(jnp.zeros(shape, dtype), plan.varying)

    def block_step(gradients, index):
        first = jnp.minimum(index * size, columns - size)
        narrow = operands._replace(
            student=_block(student, plan.student, first, size),
            teacher=None
            if operands.teacher is None or plan.teacher is None
            else _block(operands.teacher, plan.teacher, first, size),
        )

        def token_step(sums, index):
            start, part = tokens_of(plan, narrow, index, chunk)
            found = jax.tree.map(
                lambda leaf: lax.dynamic_slice_in_dim(leaf, start, chunk)[:, None], statistics
            )
            slope = slope_of(plan, part, logits_of(plan, part, begin + first), found)
            low = slope.astype(part.student.hidden.dtype)
            return _add_to_head(plan, sums, part, slope, low), None

        block = narrow.student
        sums = (
            zeros(block.weights.shape, dtype),
            None if block.bias is None else zeros(block.bias.shape, dtype),
        )
        sums, _ = lax.scan(token_step, sums, jnp.arange(-(-tokens // chunk)))

        # A last block that reaches back finds what it writes again.
        def put(whole, new, along):
            new = (new * cotangent).astype(whole.dtype)
            return lax.dynamic_update_slice_in_dim(whole, new, first, along)

        weights = put(gradients[0], sums[0], axis)
        return (weights, None if sums[1] is None else put(gradients[1], sums[1], 0)), None

    gradients = (
        zeros(student.weights.shape, weights_dtype),
        None if student.bias is None else zeros(student.bias.shape, student.bias.dtype),
    )
    return lax.scan(block_step, gradients, jnp.arange(-(-columns // size)))[0]


def _narrowed(operands: Operands) -> Operands:
    """Both heads in the dtype of their hidden states, cast once and not in every chunk."""

    def cast(side):
        return (
            None if side is None else side._replace(weights=side.weights.astype(side.hidden.dtype))
        )

    return operands._replace(student=cast(operands.student), teacher=cast(operands.teacher))


def _columns(plan: Plan, weights: jax.Array) -> int:
    """Columns of this device's head that can be real classes."""
    present = weights.shape[0 if plan.student.transposed else 1]
    return present if plan.axis_name is not None else min(present, plan.vocabulary)


def _block(side: Side, head: Constants, first: jax.Array, size: int) -> Side:
    """Columns `first:first + size` of a head."""
    weights = lax.dynamic_slice_in_dim(side.weights, first, size, 0 if head.transposed else 1)
    bias = None if side.bias is None else lax.dynamic_slice_in_dim(side.bias, first, size)
    return Side(side.hidden, weights, bias)


def _first_class(plan: Plan, operands: Operands) -> ArrayIndex:
    """The class of the first column of this device's head."""
    if plan.axis_name is None:
        return 0
    width = operands.student.weights.shape[0 if plan.student.transposed else 1]
    return lax.axis_index(plan.axis_name) * width


def _add_to_head(
    plan: Plan, sums: Tree, part: Operands, slope: jax.Array, narrow: jax.Array
) -> Tree:
    """Add a chunk to the gradients of head and bias, in float32."""
    weights, bias = sums
    pair = (
        (narrow, part.student.hidden) if plan.student.transposed else (part.student.hidden, narrow)
    )
    weights = weights + lax.dot_general(
        *pair, (((0,), (0,)), ((), ())), preferred_element_type=weights.dtype
    )
    return weights, None if bias is None else bias + jnp.sum(slope, 0)
