"""Divergences and cross-entropy from hidden states and head weights: the logits never exist.

Value and gradients are those of `divergence.py` and `task.py` on the logits
`softcap(scale (hidden @ weights + bias))`, which is what the tests compare with. The largest array
is one chunk of tokens times the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.losses.fused import chunk as fused_chunk
from jaxdistill.losses.fused import scan as fused_scan
from jaxdistill.losses.fused.rows import RULES
from jaxdistill.losses.head import Projection
from jaxdistill.losses.numerics import check_between, check_shape, compute_dtype
from jaxdistill.losses.task import valid_labels

_CHUNK_BYTES = 480 * 2**20  # both sides' logits and their gradient, of one chunk of tokens
_BLOCK_BYTES = 200 * 2**20  # the same and the head's gradient, of one block of the vocabulary


class FusedTerm(NamedTuple):
    """One part of a mix.

    Attributes:
      loss: `cross_entropy`, `forward_kl`, `reverse_kl`, `jsd` or `total_variation`.
      weight: factor on the term's total, a number or traced.
      temperature: positive scalar, a number or traced; cross-entropy has none.
      beta: the teacher's share in `jsd`, between 0 and 1, a number or traced.
    """

    loss: str
    weight: ArrayLike = 1.0
    temperature: ArrayLike = 1.0
    beta: ArrayLike = 0.5


class FusedLoss(NamedTuple):
    """The mix and what it is made of.

    Attributes:
      mix: scalar, `sum_k weight_k * total_k`. Only this one carries gradients.
      terms: by name `(total, weight)`: the sum over tokens of weight times value, and the sum of
        the weights, both without gradient.
    """

    mix: jax.Array
    terms: dict[str, tuple[jax.Array, jax.Array]]


def fused_loss(
    student: Projection,
    teacher: Projection | None,
    terms: Mapping[str, FusedTerm],
    *,
    labels: ArrayLike | None = None,
    where: ArrayLike | None = None,
    vocabulary: int | None = None,
    chunk: int | None = None,
    low_memory: bool = False,
    axis_name: str | None = None,
) -> FusedLoss:
    """Sum weighted losses over tokens without building the logits of either side.

    The tokens are scanned in chunks, and the gradients to the student's hidden states, head and
    bias are made in the same scan, summed in float32: no product with a head is computed twice.
    Everything else (teacher, temperatures, weights, betas) gets no gradient. Without
    differentiation only the values are computed. The definitions, T² included, are those of
    `forward_kl`, `reverse_kl`, `jsd`, `total_variation` and `cross_entropy`.

    For a mean over tokens divide `mix` by the weight of the terms. Where the terms' weights differ
    (labels missing on some tokens) give each term the weight `w_k / sum of its tokens' weights`.

    Args:
      student: hidden `[..., D]` and its head.
      teacher: hidden `[..., D']`, the same leading shape; None where no term needs one.
      terms: the mix, by name.
      labels: `[...]` integers; a token whose label is no class (-1, -100) takes no part in the
        cross-entropy.
      where: `[...]` bool or float weight of each token; what a token of weight 0 holds is never
        looked at, not even NaN. None is 1.
      vocabulary: the real number of classes. Columns of a head beyond it are padding, absent as if
        at -inf. None: the heads must have equally many columns and all are real.
      chunk: tokens per step; None chooses by memory.
      low_memory: leave the head's gradient to the backward pass, which computes the logits again,
        block by block of the vocabulary, instead of holding a float32 array of the head's size.
      axis_name: inside `shard_map`, the mesh axis over which both heads' columns and biases are
        sharded in equal parts. Per chunk only arrays of `[chunk]` cross it; the gradient to the
        hidden states crosses once.

    Returns:
      The mix and its terms, float32 (float64 for float64 hidden states). Under `shard_map` over
      tokens, this device's sums.

    Raises:
      ConfigError: an unknown loss, a temperature, beta, chunk or vocabulary out of range, or
        `axis_name` outside a `shard_map` that checks varying axes.
      ModelError: shapes of hidden states, weights or bias do not fit.
      DataError: labels or `where` have another shape or dtype, or labels are missing.
    """
    _check_terms(terms, teacher)
    shape = student.hidden.shape[:-1]
    if not any(term.loss != "cross_entropy" for term in terms.values()):
        teacher = None
    width = _check_side("student", student, shape)
    columns = [width] if teacher is None else [width, _check_side("teacher", teacher, shape)]
    vocabulary = _vocabulary(vocabulary, columns, axis_name)
    hidden = [student.hidden] if teacher is None else [student.hidden, teacher.hidden]
    dtype = compute_dtype(*hidden)
    tokens = math.prod(shape)
    if tokens == 0:
        raise DataError(f"hidden: got shape {student.hidden.shape}, expected at least one token")
    needs_labels = any(term.loss == "cross_entropy" for term in terms.values())
    temperatures, groups = _temperatures(terms, dtype)
    operands = fused_chunk.Operands(
        student=_side(student),
        teacher=None if teacher is None else jax.lax.stop_gradient(_side(teacher)),
        labels=_labels(labels, shape) if needs_labels else None,
        where=_where(where, shape, dtype),
        temperatures=temperatures,
        weights=tuple(_scalar(term.weight, dtype) for term in terms.values()),
        betas=tuple(_scalar(term.beta, dtype) for term in terms.values()),
    )
    varying = frozenset[str]().union(*map(fused_chunk.varying_axes, jax.tree.leaves(operands)))
    if axis_name is not None:
        varying |= {axis_name}
    operands = fused_chunk.spread(operands, varying, axis_name)
    if axis_name is not None and axis_name not in fused_chunk.varying_axes(operands.student.hidden):
        raise ConfigError(
            f"axis_name: got {axis_name!r} where varying axes are not checked, expected it inside "
            "jax.shard_map(..., check_vma=True), without which gradients would lack a sum"
        )
    plan = fused_chunk.Plan(
        rules=tuple(term.loss for term in terms.values()),
        groups=groups,
        student=student.constants,
        teacher=None if teacher is None else teacher.constants,
        vocabulary=vocabulary,
        chunk=_chunk(chunk, tokens, width, dtype),
        block=_block(student, teacher, dtype) if low_memory else 0,
        axis_name=axis_name,
        varying=varying,
    )
    mixed = fused_scan.mixture(plan, operands.student, operands)
    mix, totals = cast(tuple[jax.Array, fused_chunk.Totals], mixed)
    counted = (fused_chunk.token_weights(rule, operands, vocabulary) for rule in plan.rules)
    weights = tuple(jnp.sum(where) for where in counted)
    pairs = jax.lax.stop_gradient(tuple(zip(totals, weights, strict=True)))
    return FusedLoss(mix, dict(zip(terms, pairs, strict=True)))


def _check_terms(terms: Mapping[str, FusedTerm], teacher: Projection | None) -> None:
    if not terms:
        raise ConfigError("terms: got none, expected at least one FusedTerm by name")
    for name, term in terms.items():
        if term.loss not in RULES:
            raise ConfigError(
                f"terms[{name!r}].loss: got {term.loss!r}, expected one of {sorted(RULES)}"
            )
        if term.loss == "cross_entropy" and not _is_one(term.temperature):
            raise ConfigError(
                f"terms[{name!r}].temperature: got {term.temperature} for cross_entropy, which has "
                "none; leave it at 1"
            )
        if term.loss != "cross_entropy" and teacher is None:
            raise ModelError(
                f"teacher: got None, but terms[{name!r}] is {term.loss}; pass its Projection"
            )
        fix = "1 leaves the logits as they are"
        check_between(f"terms[{name!r}].temperature", term.temperature, 0, math.inf, fix)
        if term.loss == "jsd":
            fix = "the ends are forward_kl (0) and reverse_kl (1): use those"
            check_between(f"terms[{name!r}].beta", term.beta, 0, 1, fix)
        check_between(
            f"terms[{name!r}].weight", term.weight, -math.inf, math.inf, "a finite factor"
        )


def _check_side(name: str, side: Projection, shape: tuple[int, ...]) -> int:
    """Check the shapes of one side and return the number of columns of its head."""
    if side.hidden.ndim == 0 or side.hidden.shape[:-1] != shape:
        raise ModelError(
            f"{name}.hidden: got shape {side.hidden.shape}, expected {(*shape, 'D')}; "
            "student and teacher must see the same tokens"
        )
    depth = side.hidden.shape[-1]
    if side.weights.ndim != 2 or side.weights.shape[1 if side.transposed else 0] != depth:
        expected = ("V", depth) if side.transposed else (depth, "V")
        raise ModelError(
            f"{name}.weights: got shape {side.weights.shape}, expected {expected} for hidden "
            f"states of width {depth}; transposed says that the weights are an embedding [V, D]"
        )
    columns = side.weights.shape[0 if side.transposed else 1]
    if side.bias is not None:
        check_shape(f"{name}.bias", side.bias, (columns,), "one number per column of the weights")
    return columns


def _vocabulary(vocabulary: int | None, columns: list[int], axis_name: str | None) -> int:
    """Return the real number of classes over all shards."""
    shards = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if (vocabulary is None or axis_name is not None) and len(set(columns)) > 1:
        fix = "pass vocabulary=, the tokenizer's size, where heads are padded differently"
        if axis_name is not None:
            fix = "pad both heads to one size before they are sharded"
        raise ModelError(
            f"teacher.weights: got {columns[1]} columns, expected {columns[0]} as the student's; "
            f"{fix}"
        )
    present = min(columns) * shards
    if vocabulary is None:
        return present
    if not 0 < vocabulary <= present:
        raise ConfigError(
            f"vocabulary: got {vocabulary}, expected a number in [1, {present}], the columns that "
            "both heads have"
        )
    return vocabulary


def _temperatures(
    terms: Mapping[str, FusedTerm], dtype
) -> tuple[tuple[jax.Array | None, ...], tuple[int, ...]]:
    """Return distinct temperatures (None for 1) and which one each term has."""
    distinct: list[ArrayLike | None] = []
    groups = []
    for term in terms.values():
        temperature = None if _is_one(term.temperature) else term.temperature
        same = [i for i, other in enumerate(distinct) if _same(other, temperature)]
        groups.append(same[0] if same else len(distinct))
        if not same:
            distinct.append(temperature)
    scalars = tuple(None if x is None else _scalar(x, dtype) for x in distinct)
    return scalars, tuple(groups)


def _is_one(value: ArrayLike) -> bool:
    return isinstance(value, int | float) and value == 1


def _same(a: ArrayLike | None, b: ArrayLike | None) -> bool:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return a is b or (numbers and bool(a == b))


def _scalar(value: ArrayLike, dtype) -> jax.Array:
    return jax.lax.stop_gradient(jnp.asarray(value, dtype))


def _side(side: Projection) -> fused_chunk.Side:
    hidden = side.hidden.reshape(-1, side.hidden.shape[-1])  # [N, D]
    return fused_chunk.Side(hidden, side.weights, side.bias)


def _labels(labels: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array:
    if labels is None:
        raise DataError("labels: got None, expected integers [...]; a term is cross_entropy")
    labels = jnp.asarray(labels)
    valid_labels(labels, 1)  # integers at all
    if labels.shape != shape:
        raise DataError(
            f"labels: got shape {labels.shape}, expected {shape}; one per token, shifted by one "
            "against the inputs where the model predicts the next"
        )
    return labels.reshape(-1).astype(jnp.int32)


def _where(where: ArrayLike | None, shape: tuple[int, ...], dtype) -> jax.Array:
    if where is None:
        return jnp.ones((math.prod(shape),), dtype)
    where = jnp.asarray(where)
    if where.shape != shape:
        raise DataError(f"where: got shape {where.shape}, expected {shape}; one weight per token")
    return jax.lax.stop_gradient(where.reshape(-1).astype(dtype))


def _chunk(chunk: int | None, tokens: int, columns: int, dtype) -> int:
    """Tokens per step: as many as memory allows, in steps of nearly equal size."""
    if chunk is None:
        per_token = columns * (2 * jnp.dtype(dtype).itemsize + 2)
        most = max(_CHUNK_BYTES // per_token // 128 * 128, 128)
        steps = -(-tokens // most)
        # The last step computes again where steps overlap, by less than 128 tokens each.
        chunk = -(-tokens // (steps * 128)) * 128
    if chunk < 1:
        raise ConfigError(f"chunk: got {chunk}, expected at least 1 token per step")
    return min(chunk, tokens)


def _block(student: Projection, teacher: Projection | None, dtype) -> int:
    """Columns per block of the low-memory mode, a multiple of 128."""
    wide = jnp.dtype(dtype).itemsize
    depth = student.hidden.shape[-1]
    per_column = 1024 * (2 * wide + 2) + depth * (wide + 2 * student.hidden.dtype.itemsize)
    if teacher is not None:
        per_column += teacher.hidden.shape[-1] * teacher.hidden.dtype.itemsize
    return max(_BLOCK_BYTES // per_column // 128 * 128, 128)
