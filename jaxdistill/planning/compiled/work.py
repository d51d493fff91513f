"""What a compiled program does in one step on one device: operations and bytes of main memory."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from jaxdistill.planning.compiled import kernels
from jaxdistill.planning.compiled.hlo import Array, Computation, Instruction, Program
from jaxdistill.planning.compiled.loops import Visit, walk

# These move nothing: they name, or what they start is counted where it ends.
_FREE = frozenset(
    (
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
        "call", "after-all", "iota", "partition-id", "replica-id", "opt-barrier", "add-dependency",
        "broadcast", "domain", "copy-done", "slice-done", "dynamic-slice-done", "async-start",
        "async-update", "async-done", "all-gather-done", "all-reduce-done",
        "collective-permute-done",
    )
)  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_NAMING = ("bitcast", "convert", "copy", "reshape", "transpose")


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in a step.

    Attributes:
      flops: operations of matrix products and convolutions, two for each multiply and add.
      bytes: read from and written to main memory.
      bounded: whether every loop's number of turns is known.
    """

    flops: float
    bytes: float
    bounded: bool


def measure(program: Program, visits: list[Visit] | None = None) -> Work:
    """Count a program's operations and bytes, bodies of loops as often as they run."""
    flops = moved = 0.0
    bounded = True
    for visit in walk(program) if visits is None else visits:
        flops += visit.times * product_flops(visit.line, visit.inside)
        bounded = bounded and visit.bounded
        if not visit.fused:
            moved += visit.times * _bytes(program, visit.line, visit.inside)
    return Work(flops, moved, bounded)


def product_flops(line: Instruction, inside: Computation) -> float:
    """Return the operations of one matrix product or convolution; 0 for anything else."""
    if line.opcode == "dot":
        left = _operand(line, inside, 0)
        depth = math.prod(left.dims[axis] for axis in line.numbers("lhs_contracting_dims"))
        return 2.0 * line.arrays[0].size * depth
    if line.opcode == "convolution":
        return _convolution(line, _operand(line, inside, 0), _operand(line, inside, 1))
    if line.opcode == "custom-call":
        target = line.attribute("custom_call_target") or ""
        if "tpu_custom_call" in target:
            return kernels.flops(line, inside)
        if "cublas" in target or "matmul" in target:
            left = _operand(line, inside, 0)
            found = re.search(r'"lhs_contracting_dimensions":\["(\d+)"\]', line.text)
            return 2.0 * line.arrays[0].size * left.dims[int(found.group(1)) if found else -1]
    return 0.0


def _operand(line: Instruction, inside: Computation, index: int) -> Array:
    return inside[line.operands[index]].arrays[0]


def _convolution(line: Instruction, left: Array, right: Array) -> float:
    """Count products that are taken: neither padding nor the holes of a dilation are multiplied.

    So a batched product that a compiler writes as a dilated window counts as the product it is.
    """
    labels = line.attribute("dim_labels") or ""
    sides = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels)
    assert sides is not None  # every convolution has them
    lhs, rhs, out = sides.groups()
    window = re.search(r"window=\{([^}]*)\}", line.text)
    fields = dict(re.findall(r"(\w+)=(\S+)", window.group(1))) if window else {}
    spatial = [label for label in lhs if label.isdigit()]

    def per_axis(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * len(spatial)

    taken = 1.0
    axes = zip(
        sorted(spatial),
        per_axis("stride", "1"),
        per_axis("pad", "0_0"),
        per_axis("lhs_dilate", "1"),
        per_axis("rhs_dilate", "1"),
        strict=True,
    )
    for label, stride, pad, base, dilation in axes:
        kernel = np.arange(right.dims[rhs.index(label)])
        place = np.arange(line.arrays[0].dims[out.index(label)])
        size = left.dims[lhs.index(label)]
        at = place[:, None] * int(stride) + kernel[None, :] * int(dilation) - int(pad.split("_")[0])
        inside = (at >= 0) & (at < (size - 1) * int(base) + 1) & (at % int(base) == 0)
        taken *= inside.sum()
    groups = int(line.attribute("feature_group_count") or 1)
    batches = int(line.attribute("batch_group_count") or 1)
    features = left.dims[lhs.index("f")] / groups
    rows, columns = left.dims[lhs.index("b")] / batches, right.dims[rhs.index("o")]
    return 2.0 * taken * features * rows * columns


def _bytes(program: Program, line: Instruction, inside: Computation) -> float:
    """Return the bytes of main memory that an instruction reads and writes."""
    if line.opcode in _FREE:
        return 0.0
    if line.opcode == "fusion":
        called = program.computations.get(line.called("calls") or "")
        return 0.0 if called is None else _fusion(program, line, inside, called)
    if line.opcode == "custom-call" and (found := kernels.bytes_streamed(line, inside)):
        return found
    written = sum(_memory(array) for array in line.arrays)
    operands = [inside[name].arrays for name in line.operands if name in inside]
    if line.opcode in _SLICES or line.opcode.endswith("slice-start"):
        return 2 * _memory(line.arrays[-1 if line.opcode.endswith("start") else 0])
    if line.opcode == "dynamic-update-slice":
        return 2 * sum(map(_memory, operands[1]))
    if line.opcode == "scatter":
        return 3 * sum(map(_memory, operands[-1]))
    if line.opcode == "copy-start":
        return sum(_memory(array) for array in line.arrays[:2])
    if line.opcode.endswith("-start"):
        written = 0.0 if len(line.arrays) == 1 else _memory(line.arrays[-1])
    return written + sum(_memory(array) for arrays in operands for array in arrays)


def _fusion(program: Program, line: Instruction, inside: Computation, called: Computation) -> float:
    """Bytes of a fusion: of what it only slices, the slices; in place, what it updates."""
    total = 0.0
    updated = _updates(called)
    carried = _carried(line, called)
    for number, parameter in called.parameters.items():
        if number >= len(line.operands) or parameter.name in updated or number in carried.values():
            continue
        source = inside[line.operands[number]].arrays
        users = _readers(program, called, parameter.name)
        if users and all(user.opcode in _SLICES for user, _ in users):
            scale = 0.0 if all(array.on_chip for array in source) else 1.0
            total += scale * sum(user.arrays[0].bytes for user, first in users if first)
        else:
            total += sum(_memory(array) for array in source)
    sizes = [bytes for bytes in updated.values() if bytes]
    written = [array for index, array in enumerate(line.arrays) if index not in carried]
    outputs = sorted(map(_memory, written), reverse=True)
    return total + 2 * sum(sizes) + sum(outputs[len(sizes) :])


def _carried(line: Instruction, called: Computation) -> dict[int, int]:
    """Return results of a fusion that are its operands handed on, by number.

    They are buffers of a message on its way, which the compiler for TPUs takes along through the
    products that hide it.
    """
    if not any(one.opcode.startswith(KINDS) for one in called.values()):
        return {}
    told = line.text.partition("output_to_operand_aliasing={")[2].partition("calls=")[0]
    pairs = re.findall(r"\{(\d+)\}: \((\d+), \{\}\)", told)
    return {int(result): int(operand) for result, operand in pairs}


def _updates(called: Computation) -> dict[str, float]:
    """Return the parameters that a fusion updates in place, with the bytes of the update."""
    found = {}
    roots = [called.root]
    if called.root.opcode == "tuple":
        roots = [called[name] for name in called.root.operands]
    for root in roots:
        line = root
        while line.opcode in _NAMING:
            line = called[line.operands[0]]
        if line.opcode != "dynamic-update-slice":
            continue
        target = called[line.operands[0]]
        while target.opcode in _NAMING:
            target = called[target.operands[0]]
        if target.opcode == "parameter":
            found[target.name] = called[line.operands[1]].arrays[0].bytes
    return found


def _readers(program: Program, called: Computation, name: str) -> list[tuple[Instruction, bool]]:
    """Return what reads a value, through renamings and fusions in fusions, and if as its first."""
    found = []
    for user in called.users[name]:
        inner = program.computations.get(user.called("calls") or "")
        if user.opcode in _NAMING:
            found += _readers(program, called, user.name)
        elif user.opcode == "fusion" and inner is not None:
            places = [i for i, operand in enumerate(user.operands) if operand == name]
            for place in places:
                found += _readers(program, inner, inner.parameters[place].name)
        else:
            found.append((user, user.operands[0] == name))
    return found


def _memory(array: Array) -> float:
    return 0.0 if array.on_chip else array.bytes
