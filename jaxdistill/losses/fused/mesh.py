"""The fused losses on a mesh: tokens over some axes, the vocabulary over another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.losses.fused.api import FusedLoss, FusedTerm, fused_loss
from jaxdistill.losses.fused.chunk import vary
from jaxdistill.losses.head import Projection
from jaxdistill.types import Tree


def fused_loss_on_mesh(
    mesh: Mesh,
    student: Projection,
    teacher: Projection | None,
    terms: Mapping[str, FusedTerm],
    *,
    labels: ArrayLike | None = None,
    where: ArrayLike | None = None,
    vocabulary: int | None = None,
    chunk: int | None = None,
    low_memory: bool = False,
    token_axes: tuple[str, ...] = ("data", "fsdp"),
    length_axis: str = "sequence",
    depth_axis: str = "fsdp",
    vocabulary_axis: str = "tensor",
) -> FusedLoss:
    """Compute `fused_loss` of global arrays under `jit`, each device its tokens and classes.

    Left to the compiler, a scan over sharded tokens would gather them. Here a device scans its
    tokens against its columns of the heads. A head sharded over `depth_axis` is gathered once,
    before the scan, and its gradient is scattered once, after it. Inside the scan only sums of
    `[chunk]` cross `vocabulary_axis`.

    Args:
      mesh: axes named below that it lacks are left out.
      student, teacher, terms, labels, where, vocabulary, low_memory: arguments of `fused_loss`,
        with global arrays. Heads whose columns differ in number, or do not divide over the
        vocabulary's axis, are padded.
      chunk: tokens per step on each device.
      token_axes: shard the first axis of hidden states, labels and `where`.
      length_axis: shards their second one, where it divides that.
      depth_axis: one of them; shards the width of a head where it divides it.
      vocabulary_axis: shards the columns of the heads.

    Returns:
      Global sums, the same on every device.

    Raises:
      ModelError: the first axis does not divide over `token_axes`, or the heads differ in columns
        without a `vocabulary`.
      ConfigError: `vocabulary_axis` is one of `token_axes`.
      Others as `fused_loss`.
    """
    tokens_over = tuple(axis for axis in token_axes if axis in mesh.shape)
    over = vocabulary_axis if vocabulary_axis in mesh.shape else None
    if over in tokens_over:
        raise ConfigError(
            f"vocabulary_axis: got {over!r}, which shards tokens too, expected none of {token_axes}"
        )
    check_tokens(mesh, student, tokens_over)
    sides = {"student": student, **({} if teacher is None else {"teacher": teacher})}
    counts = [_columns(side) for side in sides.values()]
    if vocabulary is None and len(set(counts)) > 1:
        raise ModelError(
            f"teacher.weights: got {counts[1]} columns, expected {counts[0]} as the student's; "
            "pass vocabulary=, the tokenizer's size, where heads are padded differently"
        )
    vocabulary = min(counts) if vocabulary is None else vocabulary
    lengths_over = _divided_by(mesh, length_axis, student.hidden.shape[1:-1])
    along = P(tokens_over) if lengths_over is None else P(tokens_over, lengths_over)
    shards = 1 if over is None else mesh.shape[over]
    width = -(-max(counts) // shards) * shards
    summed_over = (*tokens_over, *([] if lengths_over is None else [lengths_over]))

    def depth_of(side: Projection) -> str | None:
        return gathered_axis(mesh, side, depth_axis, tokens_over)

    def spec_of(side: Projection) -> Projection:
        spec = (depth_of(side), over)
        return dataclasses.replace(
            side,
            hidden=along,
            weights=P(*reversed(spec)) if side.transposed else P(*spec),
            bias=None if side.bias is None else P(over),
        )

    sides = {name: _padded(side, width) for name, side in sides.items()}
    tokens = {"labels": labels, "where": where}
    tokens = {name: jnp.asarray(x) for name, x in tokens.items() if x is not None}
    traced = {name: _arrays(term) for name, term in terms.items()}

    def local(sides: dict[str, Projection], tokens: dict[str, Tree], traced: dict[str, Tree]):
        whole = {}
        for name, side in sides.items():
            whole[name] = gathered(side, depth_of(side), summed_over)
        found = fused_loss(
            whole["student"],
            whole.get("teacher"),
            {name: term._replace(**traced[name]) for name, term in terms.items()},
            vocabulary=vocabulary,
            chunk=chunk,
            low_memory=low_memory,
            axis_name=over,
            **tokens,
        )
        sums = found.mix, found.terms
        return lax.psum(sums, summed_over) if summed_over else sums

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=({name: spec_of(side) for name, side in sides.items()}, along, P()),
        out_specs=P(),
    )
    mix, summed = run(sides, tokens, traced)
    return FusedLoss(mix, summed)


def check_tokens(mesh: Mesh, student: Projection, axes: tuple[str, ...]) -> None:
    """Refuse hidden states whose first axis does not divide over these axes of the mesh."""
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if student.hidden.shape[0] % parts:
        raise ModelError(
            f"student.hidden: got shape {student.hidden.shape}, expected a first axis that {parts} "
            f"devices along {axes} divide; pad it with where = 0"
        )


def gathered_axis(mesh: Mesh, side: Projection, axis: str, over: tuple[str, ...]) -> str | None:
    """Return the axis over which a head is sharded by width until it is used, or None.

    Args:
      axis: mesh axis that may shard the head.
      over: axes that shard tokens; any other does not shard heads by width.
    """
    return axis if axis in over and side.hidden.shape[-1] % mesh.shape[axis] == 0 else None


def gathered(side: Projection, axis: str | None, tokens: tuple[str, ...]) -> Projection:
    """Gather a head's width inside `shard_map`.

    Args:
      axis: mesh axis that shards the width, or None.
      tokens: axes that shard tokens, over which its gradient is summed. Marked before the head is
        gathered, it is scattered first and each device sums its part.
    """
    weights = vary(side.weights, frozenset(tokens))
    if axis is not None:
        weights = lax.all_gather(weights, axis, axis=1 if side.transposed else 0, tiled=True)
    return dataclasses.replace(side, weights=weights)


def _divided_by(mesh: Mesh, axis: str, middle: tuple[int, ...]) -> str | None:
    """Return the axis, where the mesh has it and it divides rows of that shape."""
    return axis if middle and axis in mesh.shape and middle[0] % mesh.shape[axis] == 0 else None


def _columns(side: Projection) -> int:
    return side.weights.shape[0 if side.transposed else 1]


def _padded(side: Projection, width: int) -> Projection:
    """The side with columns of zeros up to `width`; `vocabulary` says that they are no classes."""
    missing = width - _columns(side)
    if missing == 0:
        return side
    pads = ((0, missing), (0, 0)) if side.transposed else ((0, 0), (0, missing))
    bias = None if side.bias is None else jnp.pad(side.bias, (0, missing))
    return dataclasses.replace(side, weights=jnp.pad(side.weights, pads), bias=bias)


def _arrays(term: FusedTerm) -> dict[str, jax.Array]:
    """Those numbers of a term that are known only when the program runs."""
    numbers = {"weight": term.weight, "temperature": term.temperature, "beta": term.beta}
    return {
        name: jnp.asarray(value)
        for name, value in numbers.items()
        if not isinstance(value, int | float)
    }
