"""Inputs and the dense version in float64 that the tests of the fused losses share."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses
from jaxdistill.losses import FusedTerm, Projection

TEMPERATURES = (0.5, 1.0, 2.0, 8.0)
SINGLE = ("cross_entropy", "forward_kl", "reverse_kl", "jsd", "total_variation")
DENSE = {name: getattr(losses, name) for name in SINGLE if name != "cross_entropy"}


def mix_of(name: str, temperature: Any) -> dict[str, FusedTerm]:
    """One divergence, or `all`: every one with another weight, at two temperatures."""
    if name == "cross_entropy":
        return {"labels": FusedTerm("cross_entropy")}
    if name != "all":
        return {name: FusedTerm(name, temperature=temperature, beta=0.3)}
    return {
        "labels": FusedTerm("cross_entropy", 0.5),
        "forward": FusedTerm("forward_kl", 1.5, temperature),
        "reverse": FusedTerm("reverse_kl", 0.3, temperature),
        "jsd": FusedTerm("jsd", 0.7, 3.0, 0.8),
        "variation": FusedTerm("total_variation", 1.1, 3.0),
    }


def case(
    tokens: int = 13,
    widths: tuple[int, int] = (8, 12),
    columns: tuple[int, int] = (50, 50),
    *,
    seed: int = 0,
    spread: float = 3.0,
    bias: bool = True,
    transposed: tuple[bool, bool] = (False, False),
    dtype: Any = np.float32,
    **settings: Any,
) -> dict[str, Any]:
    """Random sides, labels (every fifth of no class) and weights (about a third 0).

    Padded columns hold what an untrained head holds there: numbers like all others.
    """
    draw = np.random.default_rng(seed)
    sides = []
    for width, count, turned in zip(widths, columns, transposed, strict=True):
        weights = draw.normal(size=(width, count)) * spread / np.sqrt(width)
        sides.append(
            Projection(
                jnp.asarray(draw.normal(size=(tokens, width)), dtype),
                jnp.asarray(weights.T if turned else weights, dtype),
                jnp.asarray(draw.normal(size=count), dtype) if bias else None,
                transposed=turned,
                **settings,
            )
        )
    labels = draw.integers(0, min(columns), tokens).astype(np.int32)
    labels[::5] = -100
    where = draw.uniform(0.2, 2.0, tokens) * (draw.uniform(size=tokens) > 0.3)
    return {
        "student": sides[0],
        "teacher": sides[1],
        "labels": labels,
        "where": where.astype(np.float32),
    }


def logits_of(side: Projection, vocabulary: int | None = None) -> jax.Array:
    """Logits `[N, vocabulary]`, with the head's padding really cut away."""
    weights = side.weights.T if side.transposed else side.weights
    found = jnp.asarray(side.hidden @ weights)
    if side.bias is not None:
        found = found + side.bias[None]
    found = found * side.scale
    if side.softcap is not None:
        found = side.softcap * jnp.tanh(found / side.softcap)
    return found[:, :vocabulary]


def dense(student, teacher, terms, *, labels, where, vocabulary=None):
    """`(mix, {name: (total, weight)})` from logits `[N, V]`."""
    ours, theirs = logits_of(student, vocabulary), logits_of(teacher, vocabulary)
    mix, found = jnp.zeros(()), {}
    for name, term in terms.items():
        if term.loss == "cross_entropy":
            values = losses.cross_entropy(ours, labels)
            weights = where * losses.valid_labels(labels, ours.shape[-1])
        else:
            settings = {"beta": term.beta} if term.loss == "jsd" else {}
            values = DENSE[term.loss](ours, theirs, temperature=term.temperature, **settings)
            weights = where
        total = jnp.sum(jnp.where(weights > 0, values * weights, 0.0))
        mix = mix + term.weight * total
        found[name] = (total, weights.sum())
    return mix, found


@functools.cache
def compiled(function, mix: str, settings: tuple[tuple[str, Any], ...] = ()):
    """`(student, teacher, labels, where, temperature) -> (mix, terms, gradients)`, one program."""

    def mixed(arrays, student, teacher, labels, where, temperature):
        hidden, weights, bias = arrays
        side = Projection(hidden, weights, bias, student.scale, student.softcap, student.transposed)
        return function(
            side, teacher, mix_of(mix, temperature), labels=labels, where=where, **dict(settings)
        )

    @jax.jit
    def step(student, *rest):
        arrays = (student.hidden, student.weights, student.bias)
        (value, terms), gradients = jax.value_and_grad(mixed, has_aux=True)(arrays, student, *rest)
        return value, terms, gradients

    return step


def run(function, mix: str, inputs: dict[str, Any], temperature: float = 1.0, **settings: Any):
    """Mix, terms and gradients to hidden, weights and bias of a `case`."""
    step = compiled(function, mix, tuple(settings.items()))
    return step(*(inputs[name] for name in ("student", "teacher", "labels", "where")), temperature)


def run_float64(mix: str, inputs: dict[str, Any], temperature: float = 1.0, **settings: Any):
    """The dense version in float64 throughout."""

    def wide(leaf):
        leaf = np.asarray(leaf)
        return leaf if leaf.dtype == np.int32 else leaf.astype(np.float64)

    with jax.enable_x64(True):
        found = run(dense, mix, jax.tree.map(wide, inputs), np.float64(temperature), **settings)
        return jax.tree.map(np.asarray, found)


def distance(found: Any, expected: Any) -> float:
    """The largest difference over the largest expected entry."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Value, totals, weights and every gradient within a relative tolerance."""
    leaves = jax.tree_util.tree_leaves_with_path(tuple(expected))
    for (path, right), left in zip(leaves, jax.tree.leaves(tuple(found)), strict=True):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(right).all(), name
        assert left.shape == right.shape, name
        assert distance(left, right) <= tolerance, (name, distance(left, right))
