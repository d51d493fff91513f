"""Any token losses in chunks on a mesh: each device scans its tokens."""

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

from jaxdistill.losses.chunked.api import TokenLoss, chunked_loss
from jaxdistill.losses.fused.api import FusedLoss
from jaxdistill.losses.fused.mesh import check_tokens, gathered, gathered_axis
from jaxdistill.losses.head import Projection
from jaxdistill.types import Tree


def chunked_loss_on_mesh(
    mesh: Mesh,
    student: Projection,
    terms: Mapping[str, tuple[TokenLoss, ArrayLike]],
    arguments: Tree,
    where: jax.Array,
    *,
    vocabulary: int | None = None,
    columns: int | None = None,
    token_axes: tuple[str, ...] = ("data", "fsdp"),
    length_axes: tuple[str, ...] = ("sequence", "tensor"),
    depth_axis: str = "fsdp",
) -> FusedLoss:
    """Compute `chunked_loss` of global arrays under `jit`, each device its tokens.

    The head is gathered once, before the scan, and its gradient is scattered once, after it. A loss
    here may need all classes of a token at once, so that the axis that shards the vocabulary
    elsewhere shards the positions of rows.

    Args:
      mesh: axes named below that it lacks are left out.
      student, terms, arguments, where, vocabulary, columns: arguments of `chunked_loss`, with
        global arrays.
      token_axes: shard the first axis of hidden states, arguments and `where`.
      length_axes: shard their second one, where they divide it.
      depth_axis: one of the `token_axes`; shards the width of the head where it divides it.

    Returns:
      Global sums, the same on every device.

    Raises:
      ModelError: the first axis does not divide over `token_axes`.
      Others as `chunked_loss`.
    """
    rows_over = tuple(axis for axis in token_axes if axis in mesh.shape)
    check_tokens(mesh, student, rows_over)
    lengths_over: tuple[str, ...] = ()
    for axis in length_axes:
        parts = math.prod(mesh.shape[one] for one in (*lengths_over, axis) if one in mesh.shape)
        if axis in mesh.shape and where.shape[1] % parts == 0:
            lengths_over = (*lengths_over, axis)
    along, everywhere = P(rows_over, lengths_over), (*rows_over, *lengths_over)
    depth = gathered_axis(mesh, student, depth_axis, rows_over)
    specs = dataclasses.replace(
        student,
        hidden=along,
        weights=P(None, depth) if student.transposed else P(depth),
        bias=None if student.bias is None else P(),
    )
    factors = {name: jnp.asarray(weight) for name, (_, weight) in terms.items()}

    def local(
        student: Projection, factors: dict[str, jax.Array], arguments: Tree, where: jax.Array
    ):
        found = chunked_loss(
            gathered(student, depth, everywhere),
            {name: (loss, factors[name]) for name, (loss, _) in terms.items()},
            arguments,
            where,
            vocabulary=vocabulary,
            columns=columns,
        )
        sums = found.mix, found.terms
        return lax.psum(sums, everywhere) if everywhere else sums

    run = jax.shard_map(local, mesh=mesh, in_specs=(specs, P(), along, along), out_specs=P())
    mix, summed = run(student, factors, arguments, where)
    return FusedLoss(mix, summed)
