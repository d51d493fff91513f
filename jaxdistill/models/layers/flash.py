"""Causal attention in blocks on TPU, whose scores never lie in main memory.

The kernels, forward and backward, are jax's (`jax.experimental.pallas.ops.tpu`, "splash
attention"; the method is Dao et al. 2022, FlashAttention). They skip blocks that no query sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import BATCH, SEQUENCE, TENSOR, batch_parts
from jaxdistill.types import Tree

log = logging.getLogger("jaxdistill")

LEAST = 1024  # Shorter rows have few scores.
# Products of a backward pass to those of a forward pass, since scores are computed again, and once
# more for keys and values.
BACKWARD = 3.5
_BLOCKS = (512, 256, 128)


def block_of(length: int) -> int | None:
    """Return the side of a block of scores for rows of a length, None where none divides it."""
    return next((block for block in _BLOCKS if length % block == 0), None)


def visited(length: int, block: int) -> float:
    """Return the share of a row's blocks of scores that hold a token and one before it."""
    return 0.5 * (1 + block / length)


def wanted(
    rows: int, length: int, heads: int, key_heads: int, *, choice: str, dropped: bool
) -> bool:
    """Return whether to attend in blocks: for long rows on TPU, unless something is in the way.

    What is in the way is logged.

    Args:
      rows, length, heads, key_heads: sizes of the batch and of the layer.
      choice: `auto`, or `dense` for never.
      dropped: whether probabilities are dropped.
    """
    if choice == "dense" or length < LEAST or sharding.platform() != "tpu":
        return False
    reason = _obstacle(rows, length, heads, key_heads, dropped)
    if reason is not None:
        log.warning("attention: all scores of a row lie in memory at once, since %s", reason)
    return reason is None


def _obstacle(rows: int, length: int, heads: int, key_heads: int, dropped: bool) -> str | None:
    mesh = sharding.mesh_of_step()
    parts, sequence, tensor = 1, 1, 1
    if mesh is not None:
        parts, sequence, tensor = batch_parts(mesh), mesh.shape[SEQUENCE], mesh.shape[TENSOR]
    if not sharding.is_known():
        # A kernel is not split by itself, as what XLA writes is.
        return "nothing says how rows lie on the devices (jaxdistill.compile_step with a mesh does)"
    if dropped:
        return "probabilities are dropped out (train.dropout=0 leaves them)"
    # The kernels' masks are split twice over the parts of a row.
    if length % sequence**2 or block_of(length // sequence) is None:
        return f"rows of {length} over {sequence} devices are not whole blocks of {_BLOCKS[-1]}"
    if heads % tensor or key_heads % tensor:
        return f"{heads} and {key_heads} heads do not divide over {tensor} devices"
    if rows % parts:
        return f"{rows} rows do not divide over {parts} devices"
    return None


def attend_in_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segments: jax.Array | None,
    *,
    scale: float,
    softcap: float | None = None,
    window: jax.Array | None = None,
    windows: Sequence[int | None] = (),
    interpret: bool = False,
) -> jax.Array:
    """Scaled dot-product attention of each token to those before it in its text.

    What `attention.attend_causally` does with `attention.visible`, but that padding sees padding.

    Args:
      query: `[B, T, H, d]`; key and value: `[B, T, K, d]`, `H` a multiple of `K`.
      segments: `[B, T]` which text a token belongs to, or None.
      scale: factor on the products of query and key.
      softcap: bound of the scores, as in `attend_causally`.
      window: number of tokens seen, one of `windows`; None where `windows` are all alike.
      windows: windows of all layers; None for all tokens before.
      interpret: run the kernels without a TPU, for tests.

    Returns:
      The mixed values, `[B, T, H, d]`.
    """
    length = query.shape[1]
    reaches = sorted({length if w is None else min(w, length) for w in windows} or {length})
    scaled = (query * scale).astype(query.dtype)
    query, key, value = (x.swapaxes(1, 2) for x in (scaled, key, value))  # [B, H or K, T, d]

    def within(reach: int) -> jax.Array:
        return _mix(query, key, value, segments, reach=reach, softcap=softcap, interpret=interpret)

    if len(reaches) == 1:
        mixed = within(reaches[0])
    else:
        assert window is not None
        index = jnp.searchsorted(jnp.asarray(np.array(reaches)), jnp.minimum(window, length))
        mixed = jax.lax.switch(index, [lambda reach=reach: within(reach) for reach in reaches])
    return mixed.swapaxes(1, 2)


def _mix(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segments: jax.Array | None,
    *,
    reach: int,
    softcap: float | None,
    interpret: bool,
) -> jax.Array:
    """Attend over a mesh: rows and heads are split, and of each row the queries only."""
    mesh = sharding.mesh_of_step()
    heads, length = query.shape[1:3]
    sequence = 1 if mesh is None else mesh.shape[SEQUENCE]
    tensor = 1 if mesh is None else mesh.shape[TENSOR]
    kernel, segment_ids = _kernel(heads // tensor, length, reach, softcap, sequence, interpret)

    def run(
        kernel: Any, query: jax.Array, key: jax.Array, value: jax.Array, own: Tree, every: Tree
    ) -> jax.Array:
        ids = None if own is None else segment_ids(own, every)
        return jax.vmap(kernel)(query, key, value, ids)

    if mesh is None:
        return run(kernel, query, key, value, segments, segments)
    of_query = PartitionSpec(BATCH, TENSOR, SEQUENCE, None)
    of_key = PartitionSpec(BATCH, TENSOR, None, None)
    of_kernel = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, SEQUENCE)))
    of_segments = PartitionSpec(BATCH, SEQUENCE), PartitionSpec(BATCH, None)
    spread = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(of_kernel, of_query, of_key, of_key, *of_segments),
        out_specs=of_query,
        check_vma=False,  # The kernels do not say over which axes their results vary.
    )
    return spread(kernel, query, key, value, segments, segments)


def _kernel(
    heads: int, length: int, reach: int, softcap: float | None, sequence: int, interpret: bool
) -> tuple[Any, Callable[[jax.Array, jax.Array], Any]]:
    """Return the kernel, and what tells it of texts."""
    # Experimental in jax, and not quick to import: only where it is used.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    square = (length, length)
    mask = (
        masks.CausalMask(square, shard_count=sequence)
        if reach >= length
        else masks.LocalMask(square, (reach - 1, 0), 0, shard_count=sequence)
    )
    block = block_of(length // sequence)
    assert block is not None
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=sequence,
        interpret=interpret,
    )
    return kernel, kernels.SegmentIds
