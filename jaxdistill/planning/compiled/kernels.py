"""What the kernels of attention in blocks do, which a program's text does not show."""

from __future__ import annotations

import re

from jaxdistill.models.layers.flash import block_of, visited
from jaxdistill.planning.compiled.hlo import Array, Computation, Instruction

# Products of two arrays: scores and mixed values; with the gradient of scores for that of queries,
# and once more for those of keys and values.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def flops(line: Instruction, inside: Computation) -> float:
    """Return a kernel's operations; 0 for one that is not known."""
    kind = _kind(line)
    if kind is None:
        return 0.0
    query, key = _floats(line, inside)[:2]
    return 2.0 * _PRODUCTS[kind] * query.size * key.dims[-2] * _share(line, inside, query, key)


def bytes_streamed(line: Instruction, inside: Computation) -> float | None:
    """Return what a kernel reads and writes of main memory; None for one that is not known.

    For each block of queries the keys and values that it sees are read again, by every head; for
    the gradients of those, everything that belongs to queries for each block of keys.
    """
    kind = _kind(line)
    if kind is None:
        return None
    operands = _floats(line, inside)
    query, key = operands[:2]
    side = block_of(query.dims[-2])
    assert side is not None
    share = _share(line, inside, query, key)
    heads = query.dims[-3] / key.dims[-3]
    per_query_block = heads * share * query.dims[-2] / side
    per_key_block = share * key.dims[-2] / side
    again = (heads, per_key_block) if kind == "dkv" else (per_query_block, 1.0)
    read = sum(
        array.bytes * (again[0] if index in (1, 2) else again[1])
        for index, array in enumerate(operands)
        if not array.on_chip
    )
    return read + sum(array.bytes for array in line.arrays if not array.on_chip)


def _kind(line: Instruction) -> str | None:
    found = re.match(r"splash_mha_(fwd|dq|dkv)_", line.name)
    return found.group(1) if found else None


def _floats(line: Instruction, inside: Computation) -> list[Array]:
    """Return query, key, value and, of a gradient, what else is per query."""
    operands = [inside[name].arrays[0] for name in line.operands]
    return [array for array in operands if array.dtype in ("bf16", "f16", "f32")]


def _share(line: Instruction, inside: Computation, query: Array, key: Array) -> float:
    """Return the share of all blocks that is computed: those that the grid has and a token sees."""
    side = block_of(query.dims[-2])
    assert side is not None
    grid = inside[line.operands[0]].arrays[0].dims
    blocks = query.dims[-2] // side * (key.dims[-2] // side)
    return min(visited(key.dims[-2], side), grid[-1] * grid[-2] / blocks)
