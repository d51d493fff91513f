"""Reads a compiled program's text: its computations and their instructions."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "s8": 1, "u8": 1, "s16": 2, "u16": 2,
    "s32": 4, "u32": 4, "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
NAMES = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array: its dtype, its sizes, and whether it lies outside of the chip's main memory."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for dim in self.dims:
            count *= dim
        return count

    @property
    def bytes(self) -> float:
        """Bytes, without the padding of tiles."""
        return self.size * (1 if self.dtype.startswith("f8") else _BYTES.get(self.dtype, 4))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: names as they are printed.
      arrays: results of the instruction, those of a tuple flattened.
      operands: names.
      text: everything behind the operands.
      literal: what stands between the parentheses.
      root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    literal: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """Return `name=value` of the text, up to the next comma or blank."""
        found = re.search(rf"\b{name}=([^,\s]+)", self.text)
        return found.group(1) if found else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return the whole numbers of `name={1,2}`."""
        found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.text)
        return tuple(int(n) for n in found.group(1).split(",") if n) if found else ()

    def called(self, name: str) -> str | None:
        """Return the computation that `name=%computation` names."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.text)
        return found.group(1) if found else None


class Computation(dict[str, Instruction]):
    """Instructions by name, in order."""

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(line for line in reversed(self.values()) if line.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(i.literal): i for i in self.values() if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions by the name of what they read."""
        found = collections.defaultdict(list)
        for line in self.values():
            for operand in dict.fromkeys(line.operands):
                found[operand].append(line)
        return found


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program of one device.

    Attributes:
      computations: by name.
      entry: name of the one that runs.
    """

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Parse what `compiled.as_text()` returns."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations[header.group(2)] = Computation()
                entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}") and not line.startswith("}}"):
            current = None
        elif line.startswith(" ") and " = " in line:  # Attributes may go on over lines.
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    line = re.sub(r"/\*.*?\*/", "", line).strip()
    root = line.startswith("ROOT ")
    name, _, rest = line.removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    literal = rest[start + 1 : end]
    return Instruction(
        name.lstrip("%"),
        rest[:start],
        arrays_of(shape),
        tuple(NAMES.findall(literal)),
        rest[end + 1 :],
        literal,
        root,
    )


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Return the arrays of a printed shape, `f32[8,2]{1,0}` or a tuple of such."""
    return tuple(
        Array(
            dtype,
            tuple(int(d.lstrip("<=")) for d in dims.split(",") if d),
            bool(re.search(r"S\([1-9]", layout or "")),
        )
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text) - 1
