"""Any token losses of a student's logits, a few positions at a time: logits of all never exist.

`fused` knows the rules of each divergence and needs both heads; here a loss is a function of the
student's logits and of arrays beside them, such as a cached part of the teacher's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxdistill.errors import ModelError
from jaxdistill.losses.fused.api import FusedLoss
from jaxdistill.losses.fused.chunk import vary, varying_axes
from jaxdistill.losses.head import Projection, capped, raw_logits
from jaxdistill.losses.numerics import compute_dtype
from jaxdistill.types import Tree

_CHUNK_BYTES = 480 * 2**20  # the logits of a chunk, what a loss makes of them, and their gradient

TokenLoss = Callable[[jax.Array, Tree], jax.Array]
"""From logits `[B, C, V]` and the arguments' columns `[B, C, ...]` to values `[B, C]`."""


def chunked_loss(
    student: Projection,
    terms: Mapping[str, tuple[TokenLoss, ArrayLike]],
    arguments: Tree,
    where: jax.Array,
    *,
    vocabulary: int | None = None,
    columns: int | None = None,
) -> FusedLoss:
    """Sum weighted losses over tokens, a few columns of the rows at a time.

    The gradients to hidden states, head and bias are made in the same scan and summed in float32:
    no product with the head is computed twice.

    Args:
      student: hidden `[B, T, D]` and its head.
      terms: by name the loss and its weight, a number or traced.
      arguments: a pytree of arrays `[B, T, ...]` that every loss is given; without gradient.
      where: `[B, T]` weight of each token; what one of weight 0 holds is never looked at.
      vocabulary: the real number of classes; further columns of the head are left out.
      columns: positions per step; None chooses by memory.

    Returns:
      As `fused_loss`; under `shard_map` over tokens, this device's sums.

    Raises:
      ModelError: the hidden states are not `[B, T, D]`.
    """
    hidden = student.hidden
    if hidden.ndim != 3 or where.shape != hidden.shape[:2]:
        raise ModelError(
            f"hidden: got shape {hidden.shape} with weights {where.shape} per token, expected "
            "[B, T, D] and [B, T]"
        )
    dtype = jnp.dtype(compute_dtype(hidden))
    rows, length, _ = hidden.shape
    axis = 0 if student.transposed else 1
    classes = student.weights.shape[axis] if vocabulary is None else vocabulary
    most = max(1, _CHUNK_BYTES // (rows * classes * (3 * dtype.itemsize + 2)))
    steps = -(-length // min(most if columns is None else columns, length))
    columns = -(-length // steps)
    factors = {name: jnp.asarray(weight, dtype) for name, (_, weight) in terms.items()}
    where = lax.stop_gradient(where.astype(dtype))
    # What a scan carries varies over the same axes of a `shard_map` before and after each step.
    given = (student, factors, arguments, where)
    varying = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(given)))
    student, factors, arguments, where = jax.tree.map(lambda leaf: vary(leaf, varying), given)
    hidden = student.hidden

    def split(leaf: jax.Array) -> jax.Array:  # [B, T, ...] -> [steps, B, C, ...]
        beyond = ((0, 0), (0, steps * columns - length)) + ((0, 0),) * (leaf.ndim - 2)
        return jnp.pad(leaf, beyond).reshape(rows, steps, columns, *leaf.shape[2:]).swapaxes(0, 1)

    def values(raw: jax.Array, counts: jax.Array, own: Tree) -> dict[str, jax.Array]:
        logits = capped(raw, student.constants)
        return {
            name: jnp.sum(jnp.where(counts > 0, counts * loss(logits, own), 0.0))
            for name, (loss, _) in terms.items()
        }

    def scan(weights, bias, hidden, factors, arguments, gradient):
        weights = lax.slice_in_dim(weights, 0, classes, axis=axis).astype(hidden.dtype)
        bias = None if bias is None else bias[:classes].astype(dtype)
        back, to_head = (
            ("bcv,vd->bcd", "bcv,bcd->vd") if student.transposed else ("bcv,dv->bcd", "bcd,bcv->dv")
        )

        def step(carry, part):
            totals, head, bias_sum = carry
            states, counts, own = part
            states = jnp.where((counts > 0)[..., None], states, jnp.zeros_like(states))
            raw = raw_logits(states, weights, bias, student.constants, dtype)

            def mixed(raw):
                found = values(raw, counts, own)
                return sum(factors[name] * found[name] for name in found), found

            if not gradient:
                found = mixed(raw)[1]
                return (jax.tree.map(jnp.add, totals, found), head, bias_sum), None
            slope, found = jax.grad(mixed, has_aux=True)(raw)
            low = slope.astype(states.dtype)
            own_gradient = jnp.einsum(back, low, weights, preferred_element_type=dtype)
            pair = (low, states) if student.transposed else (states, low)
            head = head + jnp.einsum(to_head, *pair, preferred_element_type=dtype)
            bias_sum = None if bias is None else bias_sum + slope.sum((0, 1))
            totals = jax.tree.map(jnp.add, totals, found)
            return (totals, head, bias_sum), own_gradient.astype(states.dtype)

        zeros = (
            {name: jnp.zeros((), dtype) for name in terms},
            jnp.zeros(weights.shape, dtype) if gradient else None,
            jnp.zeros(bias.shape, dtype) if gradient and bias is not None else None,
        )
        zeros = jax.tree.map(lambda leaf: vary(leaf, varying), zeros)
        parts = jax.tree.map(split, (hidden, where, arguments))
        (totals, head, bias_sum), slopes = lax.scan(step, zeros, parts)
        mix = sum(factors[name] * totals[name] for name in totals)
        if slopes is not None:
            slopes = slopes.swapaxes(0, 1).reshape(rows, -1, slopes.shape[-1])[:, :length]
        return (mix, totals), (slopes, head, bias_sum)

    @jax.custom_vjp
    def mixture(weights, bias, hidden, factors, arguments):
        return scan(weights, bias, hidden, factors, arguments, False)[0]

    def forward(weights, bias, hidden, factors, arguments):
        found, gradients = scan(weights, bias, hidden, factors, arguments, True)
        # Dtypes cannot be kept in residuals: empty arrays stand for them.
        like = (jnp.zeros(0, weights.dtype), None if bias is None else jnp.zeros(0, bias.dtype))
        return found, (gradients, like)

    def backward(residuals, cotangents):
        (slopes, head, bias_sum), (weights_like, bias_like) = residuals
        by = cotangents[0]
        beyond = student.weights.shape[axis] - classes
        widths = ((0, beyond), (0, 0)) if student.transposed else ((0, 0), (0, beyond))
        weights = jnp.pad((head * by).astype(weights_like.dtype), widths)
        bias = None
        if bias_like is not None:
            bias = jnp.pad((bias_sum * by).astype(bias_like.dtype), (0, beyond))
        return weights, bias, slopes * by.astype(slopes.dtype), None, None

    mixture.defvjp(forward, backward)
    mix, totals = mixture(
        student.weights,
        student.bias,
        hidden,
        lax.stop_gradient(factors),
        lax.stop_gradient(arguments),
    )
    totals = lax.stop_gradient(totals)
    weight = lax.stop_gradient(where.sum())
    return FusedLoss(mix, {name: (totals[name], weight) for name in terms})
