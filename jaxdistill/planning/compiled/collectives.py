"""What a compiled program sends over the interconnect: kinds, bytes, axes of the mesh, seconds."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxdistill.planning.chips import Chip
from jaxdistill.planning.compiled.hlo import Instruction
from jaxdistill.planning.compiled.loops import Visit
from jaxdistill.planning.compiled.work import KINDS

_STARTS = {f"{kind}-start": kind for kind in KINDS} | {"ragged-all-to-all": "all-to-all"}
_PAIR = re.compile(r"\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of message over the same axes.

    Attributes:
      kind: `all-gather`, `reduce-scatter`, …
      axes: axes of the mesh that it crosses, joined by `+`; `?` where groups follow none.
      bytes: bytes that each device receives over its links in a step.
      message_bytes: size of the whole arrays that a device takes part in gathering, summing or
        sharing.
      count: how many a step has.
      seconds: floor of their time; None where the bandwidth is not known.
    """

    kind: str
    axes: str
    bytes: float
    message_bytes: float
    count: float
    seconds: float | None


def collectives(
    visits: Sequence[Visit], mesh: Mesh, chip: Chip, shape: tuple[int, ...]
) -> list[Collective]:
    """List what a program sends, most bytes first.

    A device of `n` receives `(n - 1)` parts of an all-gather, `(n - 1) / n` of what it brings to a
    reduce-scatter or an all-to-all, and twice that of an all-reduce: what the best algorithms need
    (Chan et al. 2007, Collective communication: theory, practice, and experience).

    Args:
      visits: instructions that a step runs, from `loops.walk`.
      mesh: mesh that the program was compiled for.
      chip: kind of each device.
      shape: chips along each dimension of the topology.
    """
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0.0] * 4)
    for visit in visits:
        kind = _kind(visit)
        if kind is None:
            continue
        group = first_group(visit.line, kind, mesh.size)
        if len(group) < 2:
            continue
        entry = found[kind, axes_of(group, mesh)]
        own = visit.times * _brought(visit)
        received = own * _SHARES[kind](len(group))
        bandwidth = bandwidth_of(group, kind, mesh, chip, shape)
        whole = own * len(group) if kind == "all-gather" else own
        seconds = received / bandwidth if bandwidth else math.nan
        for index, value in enumerate((received, whole, visit.times, seconds)):
            entry[index] += value
    listed = [
        Collective(kind, axes, size, whole, count, None if math.isnan(seconds) else seconds)
        for (kind, axes), (size, whole, count, seconds) in found.items()
    ]
    return sorted(listed, key=lambda one: -one.bytes)


def network_seconds(found: Sequence[Collective]) -> float | None:
    """Return a floor for all of them: those over different axes may run at the same time."""
    by_axes: dict[str, float] = collections.defaultdict(float)
    for one in found:
        if one.seconds is None:
            return None
        for axis in one.axes.split("+"):
            by_axes[axis] += one.seconds
    return max(by_axes.values(), default=0.0)


def _kind(visit: Visit) -> str | None:
    """Return what an instruction sends; None for parts of a message that is counted elsewhere."""
    line = visit.line
    kind = _STARTS.get(line.opcode, line.opcode)
    if kind not in KINDS:
        return None
    lines = visit.inside.values()
    if "chain_id=" in line.text and not any("AsyncCollectiveStart" in i.text for i in lines):
        return None  # A later part of a message that the compiler spread over several products.
    if kind == "all-reduce" and visit.fused and visit.inside.root.opcode == "dynamic-slice":
        return "reduce-scatter"  # As the compiler for TPUs writes one.
    return kind


_SHARES: Mapping[str, Callable[[int], float]] = {
    "all-gather": lambda devices: devices - 1,
    "all-reduce": lambda devices: 2 * (devices - 1) / devices,
    "reduce-scatter": lambda devices: (devices - 1) / devices,
    "all-to-all": lambda devices: (devices - 1) / devices,
    "collective-permute": lambda devices: 1,
}


def _brought(visit: Visit) -> float:
    """Return the bytes that a device brings to a message."""
    operands = [visit.inside[name] for name in visit.line.operands if name in visit.inside]
    return sum(array.bytes for operand in operands for array in operand.arrays)


def first_group(line: Instruction, kind: str, devices: int) -> list[int]:
    """Return the devices that exchange a message, those of the first group."""
    text = line.text
    if kind == "collective-permute":
        pairs = [(int(a), int(b)) for a, b in _PAIR.findall(text.split("source_target_pairs=")[-1])]
        return next(([a, b] for a, b in pairs if a != b), [])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return [int(n) for n in listed.group(1).split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        ids = _iota(iota.group(3), iota.group(4))
        return ids.reshape(int(iota.group(1)), int(iota.group(2)))[0].tolist()
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:\[([\d,]+)\])?(?:T\(([\d,]+)\))?\))? "
        r"\{([^}]*)\}",
        text,
    )
    if named:
        return _of_axes(*named.groups(), devices=devices)
    return list(range(devices))


def _iota(dims: str, order: str | None) -> np.ndarray:
    sizes = [int(n) for n in dims.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def _of_axes(
    mesh: str, dims: str | None, order: str | None, over: str, *, devices: int
) -> list[int]:
    """Return the first group along named axes, `'axis_0'` or a part of one, `'axis_0':(1)2`."""
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh)}
    ids = (_iota(dims, order) if dims else np.arange(devices)).reshape(list(sizes.values()))
    chosen: list[Any] = []
    for name, before, size in re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", over):
        if name not in sizes:
            continue
        whole = sizes[name]
        index = np.arange(whole)
        if size:
            after = whole // (int(before) * int(size))
            index = np.arange(int(size)) * after
        chosen.append((list(sizes).index(name), index))
    picks: list[Any] = [np.array([0])] * len(sizes)
    for axis, index in chosen:
        picks[axis] = index
    return ids[np.ix_(*picks)].reshape(-1).tolist()


def axes_of(group: Sequence[int], mesh: Mesh) -> str:
    """Return the axes of the mesh along which devices of a group differ."""
    sizes: Mapping[str, int] = mesh.shape
    places = np.stack(np.unravel_index(np.array(group), tuple(sizes.values())), axis=1)
    names = [
        name for name, column in zip(sizes, places.T, strict=True) if len(np.unique(column)) > 1
    ]
    return "+".join(names) or "?"


def bandwidth_of(
    group: Sequence[int], kind: str, mesh: Mesh, chip: Chip, shape: tuple[int, ...]
) -> float | None:
    """Return the bytes per second that a device of the group can receive.

    Along each dimension of the torus in which the group's chips differ, two links where it is a
    ring and one where it is a line. A permute goes over one link.
    """
    link = chip.link_bandwidth
    if link is None:
        return None
    if not chip.dimensions or kind == "collective-permute":
        return link
    devices = mesh.devices.flat
    places = np.array([devices[index].coords for index in group])
    links = 0
    for dimension, size in enumerate(shape):
        if len(np.unique(places[:, dimension])) > 1:
            links += 2 if size % chip.wraps == 0 else 1
    return link * max(links, 1)
