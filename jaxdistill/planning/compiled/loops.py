"""What a compiled program runs, and how often: the bodies of its loops by their trip counts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

from jaxdistill.planning.compiled.hlo import NAMES, Array, Computation, Instruction, Program


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction, the computation that it is in, and how often a step runs it.

    Attributes:
      fused: whether it is inside a fusion, so that what it reads and writes stays on the chip.
      bounded: whether that number is known; a loop that ends by its data counts once.
    """

    line: Instruction
    inside: Computation
    times: float
    fused: bool
    bounded: bool


def walk(program: Program, *, trips: Callable[[Instruction], int | None] | None = None) -> Iterator:
    """Yield a `Visit` of everything that a step runs: bodies of loops with their trip counts.

    A conditional's branches count as if they were taken equally often.

    Args:
      trips: trip count of a loop whose number the program does not state; None counts one.
    """

    def visit(name: str, times: float, fused: bool, bounded: bool) -> Iterator[Visit]:
        inside = program.computations[name]
        for line in inside.values():
            yield Visit(line, inside, times, fused, bounded)
            if line.opcode == "while":
                count = trip_count(program, inside, line)
                if count is None and trips is not None:
                    count = trips(line)
                known = bounded and count is not None
                body = line.called("body")
                if body in program.computations:
                    yield from visit(body, times * (1 if count is None else count), fused, known)
                continue
            for attribute in _CALLS.get(line.opcode, ()):
                target = line.called(attribute)
                if target in program.computations:
                    inner = fused or line.opcode == "fusion"
                    yield from visit(target, times, inner, bounded)
            if line.opcode == "conditional":
                branches = _branches(line)
                for target in branches:
                    yield from visit(target, times / len(branches), fused, bounded)

    yield from visit(program.entry, 1, False, True)


_CALLS = {
    "fusion": ("calls",),
    "call": ("to_apply",),
    "async-start": ("calls", "called_computation"),
    "custom-call": ("called_computations",),
}


def _branches(line: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", line.text)
    if listed:
        return NAMES.findall(listed.group(1))
    both = (line.called("true_computation"), line.called("false_computation"))
    return [name for name in both if name]


def trip_count(program: Program, inside: Computation, loop: Instruction) -> int | None:
    """Return how often a `while` runs, or None where its data decide.

    The compiler's count where it is printed, else from a counter that is compared with a
    constant and raised by a constant.
    """
    told = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
    if told:
        return int(told.group(1))
    condition = program.computations.get(loop.called("condition") or "")
    body = program.computations.get(loop.called("body") or "")
    if condition is None or body is None:
        return None
    start = inside.get(loop.operands[0])

    def initial(index: int) -> int | None:
        if start is None or start.opcode != "tuple":
            return None
        return _constant(inside, start.operands[index])

    test = condition.root
    inner = condition
    names = test.operands
    if test.opcode == "fusion":
        inner = program.computations[test.called("calls") or ""]
        places = {p.name: test.operands[number] for number, p in inner.parameters.items()}
        test = inner.root
        names = tuple(places.get(name, name) for name in test.operands)
    if test.opcode != "compare" or len(names) != 2:
        return None
    sides = []
    for name in names:
        value = _constant(inner, name) if name in inner else None
        value = _constant(condition, name) if value is None and name in condition else value
        index = _element(condition, name)
        sides.append((value, index))
    (_, counter), (limit, index) = sides
    if counter is None:
        return None
    if limit is None and index is not None:
        limit = initial(index)
    first, raised = initial(counter), _raised(program, body, counter)
    if limit is None or first is None or not raised:
        return None
    span = limit - first + (test.attribute("direction") == "LE")
    return max(-(-span // raised), 0) if test.attribute("direction") in ("LT", "LE") else None


_SAME = ("copy", "bitcast", "convert", "copy-done", "reshape")


def _through(inside: Computation, name: str) -> Instruction | None:
    """Follow copies and casts to what they were made of."""
    line = inside.get(name)
    while line is not None and line.opcode in _SAME:
        line = inside.get(line.operands[0])
        if line is not None and line.opcode == "copy-start":
            line = inside.get(line.operands[0])
    return line


def _constant(inside: Computation, name: str) -> int | None:
    line = _through(inside, name)
    if line is None or line.opcode != "constant":
        return None
    found = re.fullmatch(r"-?\d+", line.literal)
    return int(line.literal) if found else None


def _element(inside: Computation, name: str) -> int | None:
    line = _through(inside, name)
    if line is None or line.opcode != "get-tuple-element":
        return None
    found = line.attribute("index")
    return int(found) if found else None


def _raised(program: Program, body: Computation, counter: int) -> int | None:
    """Return by how much a turn of the body raises that element of its tuple."""
    root = body.root
    if root.opcode != "tuple":
        return 1  # A body that hands its whole tuple on has its counter raised elsewhere.
    line = _through(body, root.operands[counter])
    inside = body
    if line is not None and line.opcode == "fusion":
        inside = program.computations[line.called("calls") or ""]
        line = inside.root
    if line is None or line.opcode != "add":
        return None
    found = [_constant(inside, name) for name in line.operands]
    found += [_constant(body, name) for name in line.operands if name in body]
    steps = [value for value in found if value is not None]
    return steps[0] if steps else 1


def kept_between_loops(program: Program) -> float:
    """Return the bytes that one loop stacks up for another: activations for the backward pass."""
    most = 0.0
    for inside in program.computations.values():
        stacked: dict[tuple[str, int], Array] = {}
        read: set[tuple[str, int]] = set()
        for line in inside.values():
            if line.opcode != "while":
                continue
            start, body = (
                inside.get(line.operands[0]),
                program.computations.get(line.called("body") or ""),
            )
            if start is None or start.opcode != "tuple" or body is None:
                continue
            same = _handed_on(body)
            count = trip_count(program, inside, line)
            for index, array in enumerate(line.arrays[: len(start.operands)]):
                if index not in same:
                    if count and array.dims[:1] == (count,):
                        stacked[line.name, index] = array
                    continue
                source = _through(inside, start.operands[index])
                if source is not None and source.opcode == "get-tuple-element":
                    read.add((source.operands[0], int(source.attribute("index") or 0)))
        most = max(most, sum(array.bytes for key, array in stacked.items() if key in read))
    return most


def _handed_on(body: Computation) -> set[int]:
    """Return the elements of a loop's tuple that its body does not change."""
    root = body.root
    if root.opcode != "tuple":
        return set()
    return {
        index
        for index, name in enumerate(root.operands)
        if (line := body.get(name)) is not None
        and line.opcode == "get-tuple-element"
        and body[line.operands[0]].opcode == "parameter"
        and line.attribute("index") == str(index)
    }
