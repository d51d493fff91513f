"""What crosses devices in an optimized program, and meshes of some axes."""

import re

import jax
from jax.sharding import AxisType

COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def mesh_of(**sizes):
    axes = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axes)


def collectives(program):
    """`(computation, operation, [shapes])` of every collective of an optimized program."""
    found, computation = [], ""
    for line in program.splitlines():
        if line and not line[0].isspace():
            computation = line.split("(")[0]
        match = COLLECTIVE.search(line)
        if match:
            shapes = [
                tuple(int(size) for size in shape.split(",") if size)
                for shape in re.findall(r"\[([\d,]*)\]", match.group(1))
            ]
            found.append((computation.strip(), match.group(2), shapes))
    return found
