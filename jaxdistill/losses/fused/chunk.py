"""What one chunk of tokens, or a block of its classes, needs and gives under the fused losses."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.losses import head
from jaxdistill.losses.fused.rows import RULES, Normalizer, Row, distribution, shifted
from jaxdistill.losses.head import Constants, raw_gradient, without_padding
from jaxdistill.types import Tree


class Plan(NamedTuple):
    """What is known when the program is built.

    Attributes:
      rules: the names in `RULES`, one per term.
      groups: per term the index of its temperature.
      student, teacher: the static halves of both projections.
      vocabulary: the real number of classes; the head's further columns are padding.
      chunk: tokens per step.
      block: columns of the head per block in the low-memory mode, 0 otherwise.
      axis_name: the mesh axis over which the vocabulary is sharded.
      varying: the mesh axes over which the operands vary inside `shard_map`.
    """

    rules: tuple[str, ...]
    groups: tuple[int, ...]
    student: Constants
    teacher: Constants | None
    vocabulary: int
    chunk: int
    block: int
    axis_name: str | None
    varying: frozenset[str]


class Side(NamedTuple):
    """Hidden states `[N, D]`, weights `[D, V]` (`[V, D]` if transposed) and bias `[V]` or None."""

    hidden: jax.Array
    weights: jax.Array
    bias: jax.Array | None


class Operands(NamedTuple):
    """What is known when the program runs.

    Attributes:
      student, teacher: both sides; no teacher where no term needs one.
      labels: `[N]` int32 or None.
      where: `[N]`, the weight of each token; one of weight 0 is never looked at.
      temperatures: scalars; None is 1.
      weights: weights of the terms in the mix, scalars.
      betas: one per term, scalars.
    """

    student: Side
    teacher: Side | None
    labels: jax.Array | None
    where: jax.Array
    temperatures: tuple[jax.Array | None, ...]
    weights: tuple[jax.Array, ...]
    betas: tuple[jax.Array, ...]


class Statistics(NamedTuple):
    """What a block must know of the whole row, `[N, 1]` each."""

    student: Normalizer
    teacher: Normalizer | None
    sums: tuple[tuple[jax.Array, ...], ...]


Totals = tuple[jax.Array, ...]
ArrayIndex = jax.Array | int
Logits = tuple[jax.Array, jax.Array | None, jax.Array | None]
"""The student's, the teacher's, and whether a column is the label, `[C, V]` each."""


def tokens_of(
    plan: Plan, operands: Operands, index: ArrayIndex, size: int
) -> tuple[jax.Array, Operands]:
    """Chunk `index` of the tokens and where it starts.

    The last chunk reaches back over tokens seen before, which get weight 0: no array is padded.
    Hidden states of tokens of weight 0 are set to 0, so that a NaN there cannot spread.
    """
    tokens = operands.where.shape[0]
    start = jnp.minimum(index * size, tokens - size)

    def take(x: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, start, size)

    positions = start + lax.iota(jnp.int32, size)
    where = take(operands.where)
    looked_at = where[:, None] > 0
    where = jnp.where(positions >= index * size, where, 0.0)

    def clean(side: Side) -> Side:
        hidden = take(side.hidden)
        return side._replace(hidden=jnp.where(looked_at, hidden, jnp.zeros_like(hidden)))

    return start, operands._replace(
        student=clean(operands.student),
        teacher=None if operands.teacher is None else clean(operands.teacher),
        labels=None if operands.labels is None else take(operands.labels),
        where=where,
    )


def logits_of(plan: Plan, part: Operands, first: ArrayIndex) -> Logits:
    """Logits of both sides `[C, V]` over the student's columns, and which column is the label.

    `first` is the class of the first column.
    """
    dtype = part.where.dtype
    student = head.logits_of(*part.student, plan.student, dtype=dtype)  # [C, V]
    width = student.shape[1]
    padded = plan.axis_name is not None or width > plan.vocabulary
    if padded:
        student = without_padding(student, plan.vocabulary, first)
    teacher = None
    if part.teacher is not None and plan.teacher is not None:
        teacher = head.logits_of(*part.teacher, plan.teacher, dtype=dtype)[:, :width]
        missing = width - teacher.shape[1]
        if missing:
            teacher = jnp.pad(teacher, ((0, 0), (0, missing)))  # beyond the vocabulary
        if padded:
            teacher = without_padding(teacher, plan.vocabulary, first)
    is_label = None
    if part.labels is not None:
        columns = first + lax.broadcasted_iota(jnp.int32, student.shape, 1)
        is_label = columns == part.labels[:, None]
    return student, teacher, is_label


def statistics_of(plan: Plan, part: Operands, logits: Logits) -> Statistics:
    """The statistics of whole rows, across devices too: three collectives of a few `[C]`."""
    student, teacher, _ = logits
    sides = [student] if teacher is None else [student, teacher]
    highest = [jnp.max(side, 1, keepdims=True) for side in sides]
    if plan.axis_name is not None:
        highest = lax.pmax(highest, plan.axis_name)

    def total(side, top, temperature):
        rest, support = shifted(side, top, temperature)
        return jnp.sum(jnp.where(support, jnp.exp(rest), 0.0), 1, keepdims=True)

    totals = [
        tuple(total(side, top, temperature) for temperature in part.temperatures)
        for side, top in zip(sides, highest, strict=True)
    ]
    totals = _sum_over_shards(plan, totals)
    normalizers = [Normalizer(*pair) for pair in zip(highest, totals, strict=True)]
    found = Statistics(normalizers[0], normalizers[1] if len(normalizers) > 1 else None, ())
    sums = tuple(
        tuple(
            jnp.sum(summand, 1, keepdims=True)
            for summand in RULES[rule].summands(_row(plan, part, logits, found, term))
        )
        for term, rule in enumerate(plan.rules)
    )
    return found._replace(sums=_sum_over_shards(plan, sums))


def _row(plan: Plan, part: Operands, logits: Logits, found: Statistics, term: int) -> Row:
    student, teacher, is_label = logits
    group = plan.groups[term]
    temperature = part.temperatures[group]
    p = label = None
    if teacher is not None and found.teacher is not None:
        p = distribution(teacher, found.teacher, temperature, group)
    q = distribution(student, found.student, temperature, group)
    if is_label is not None:
        # One logit per row: a maximum over a mask fuses with what reads the row, a gather does not.
        logit = jnp.max(jnp.where(is_label, student, -jnp.inf), 1, keepdims=True)
        label = distribution(logit, found.student, temperature, group)
    return Row(q, p, is_label, label, part.betas[term])


def totals_of(plan: Plan, part: Operands, found: Statistics) -> Totals:
    """Totals of the terms over the chunk's tokens."""
    totals = []
    for term, rule in enumerate(plan.rules):
        value, where = found.sums[term][0], token_weights(rule, part, plan.vocabulary)
        if rule == "cross_entropy":
            # A label that is NaN may look absent, too: the total tells, and makes the infinity NaN.
            absent = jnp.inf + found.student.totals[plan.groups[term]]
            value = value + jnp.where(found.sums[term][1] == 0, absent, 0.0)
        else:
            assert found.teacher is not None
            has_teacher = _has_classes(found.teacher, plan.groups[term])
            has_student = _has_classes(found.student, plan.groups[term])
            value = jnp.where(has_teacher, value, 0.0)
            value = value + jnp.where(has_teacher & ~has_student, jnp.inf, 0.0)
        value = value[:, 0] * _power(plan, part, term, RULES[rule].power)
        totals.append(jnp.sum(jnp.where(where > 0, value * where, 0.0)))
    return tuple(totals)


def slope_of(plan: Plan, part: Operands, logits: Logits, found: Statistics) -> jax.Array:
    """Gradient of the mix to `hidden @ weights + bias`, `[C, V]`."""
    gradient = jnp.zeros_like(logits[0])
    for term, rule in enumerate(plan.rules):
        row = _row(plan, part, logits, found, term)
        slope = RULES[rule].slope(row, found.sums[term])
        where = token_weights(rule, part, plan.vocabulary)
        factor = part.weights[term] * _power(plan, part, term, RULES[rule].power - 1) * where
        kept = where > 0
        if rule != "cross_entropy":
            assert found.teacher is not None
            kept = kept & _has_classes(found.teacher, plan.groups[term])[:, 0]
        gradient = gradient + jnp.where(kept[:, None], factor[:, None] * slope, 0.0)
    return raw_gradient(gradient, logits[0], plan.student)


def _has_classes(side: Normalizer, group: int) -> jax.Array:
    """Whether a row has any class that can occur, `[N, 1]`; NaN counts as one.

    The total tells: in a scan on CPUs the maximum of a row of NaN comes out as -inf.
    """
    return ~(side.totals[group] == 0)


def _power(plan: Plan, part: Operands, term: int, power: int) -> jax.Array | float:
    temperature = part.temperatures[plan.groups[term]]
    return 1.0 if temperature is None else temperature**power


def token_weights(rule: str, part: Operands, vocabulary: int) -> jax.Array:
    """Weights `[N]` of a term: cross-entropy leaves out tokens without a label of a real class."""
    if rule != "cross_entropy":
        return part.where
    assert part.labels is not None
    return jnp.where((part.labels >= 0) & (part.labels < vocabulary), part.where, 0.0)


def _sum_over_shards(plan: Plan, tree: Tree) -> Tree:
    return tree if plan.axis_name is None else lax.psum(tree, plan.axis_name)


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which `x` varies inside `shard_map`, under the name of this jax."""
    kind = jax.typeof(x)
    return getattr(getattr(kind, "manual_axis_type", kind), "varying", None) or getattr(
        kind, "vma", frozenset()
    )


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Mark `x` as varying over these axes, so that its gradient is summed over them."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def spread(operands: Operands, varying: frozenset[str], axis_name: str | None) -> Operands:
    """Let everything vary over the same axes, but only the two sides over the vocabulary's."""

    def all_over(tree: Tree, axes: frozenset[str]) -> Tree:
        return jax.tree.map(lambda leaf: vary(leaf, axes), tree)

    shared = all_over(operands._replace(student=None, teacher=None), varying - {axis_name})
    return shared._replace(
        student=all_over(operands.student, varying), teacher=all_over(operands.teacher, varying)
    )
