"""What one program costs on one chip of a topology: memory, work, messages, and floors of time."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill.inspect.plan import hlo, loops
from jaxdistill.inspect.plan.chips import GIB
from jaxdistill.inspect.plan.collectives import Collective, collectives, network_seconds
from jaxdistill.inspect.plan.programs import Program
from jaxdistill.inspect.plan.topology import Topology
from jaxdistill.inspect.plan.work import measure

# What the compiler for TPUs says of a program that is too large, in two of its wordings.
_USED = re.compile(r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)(?: of|\) exceeds)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Account:
    """One program on one device of a mesh.

    Attributes:
      name: of the program.
      fits: whether it compiles within the memory; None where the memory's size is not known.
      peak_bytes: of memory in use at once; where it does not fit, as the compiler estimates it.
      hbm_bytes: that a program may use, or None.
      memory: bytes of `parameters`, `optimizer`, `teacher`, `batch`, `activations`
        (what one loop over layers stacks up for another), `temporaries` (gradients, workspace, and
        activations that are not stacked) and `program`.
      flops, moved_bytes: of a step, bodies of loops as often as they run; None where not compiled.
      bounded: whether all loops' numbers of turns are known.
      messages: over the interconnect.
      seconds: floors by `compute`, `memory` and `network`; empty where the chip is not known.
      tokens: of a step over all devices, counted in `unit`.
      useful_flops, run_flops: see `Program`.
      mfu: useful operations per second of the peak, at the largest floor.
    """

    name: str
    fits: bool | None
    peak_bytes: int
    hbm_bytes: int | None
    memory: dict[str, int]
    tokens: int
    unit: str
    devices: int
    flops: float | None = None
    moved_bytes: float | None = None
    bounded: bool = True
    messages: tuple[Collective, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    useful_flops: float | None = None
    run_flops: float | None = None
    mfu: float | None = None

    @property
    def bound(self) -> float | None:
        """Seconds that a step takes at least."""
        return max(self.seconds.values(), default=None)

    @property
    def tokens_per_second(self) -> float | None:
        """Of all devices, at most."""
        return self.tokens / self.bound if self.bound else None

    def cost(self, price: float) -> float | None:
        """Return the least cost of a billion tokens, at a price per chip and hour."""
        rate = self.tokens_per_second
        return 1e9 / rate / 3600 * price * self.devices if rate else None

    def as_json(self, price: float | None) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dataclasses.asdict(self) | {
            "step_seconds_at_least": self.bound,
            "tokens_per_second_at_most": self.tokens_per_second,
            "cost_per_billion_tokens": None if price is None else self.cost(price),
        }


def accounts(programs: Sequence[tuple[Program, Mesh]], topology: Topology) -> list[Account]:
    """Compile programs, two at a time where there are two cores, and say what they cost.

    Args:
      programs: each with the mesh that it was made for.
      topology: of all meshes.

    Raises:
      jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    lowered = [program.lower() for program, _ in programs]
    with ThreadPoolExecutor(max(1, min(2, os.cpu_count() or 1))) as pool:
        compiled = list(pool.map(_compile, lowered))
    return [
        account(program, found, mesh, topology)
        for (program, mesh), found in zip(programs, compiled, strict=True)
    ]


def _compile(lowered: Any) -> Any:
    """Return the executable, or the bytes that it would need where they are too many."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _USED.search(str(error))
        if used is None:
            raise
        return int(float(used.group(1)) * _UNITS[used.group(2)])


def account(program: Program, compiled: Any, mesh: Mesh, topology: Topology) -> Account:
    """Say what an executable costs; an integer are the bytes of one that does not fit."""
    chip = topology.chip
    known: dict[str, Any] = {
        "name": program.name,
        "hbm_bytes": chip.hbm_bytes,
        "tokens": program.tokens,
        "unit": program.unit,
        "devices": mesh.size,
        "useful_flops": program.useful_flops,
        "run_flops": program.run_flops,
    }
    if isinstance(compiled, int):
        rest = max(compiled - sum(program.held.values()), 0)
        memory = {**program.held, "activations": 0, "temporaries": rest, "program": 0}
        return Account(fits=False, peak_bytes=compiled, memory=memory, **known)
    found = compiled.memory_analysis()
    parsed = hlo.parse(compiled.as_text())
    kept = min(int(loops.kept_between_loops(parsed)), found.temp_size_in_bytes)
    memory = {
        **program.held,
        "activations": kept,
        "temporaries": found.temp_size_in_bytes - kept,
        "program": found.generated_code_size_in_bytes,
    }
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    peak = found.argument_size_in_bytes + max(outputs, 0) + found.temp_size_in_bytes
    peak += memory["program"]
    visits = list(loops.walk(parsed, trips=lambda loop: program.turns))
    work = measure(parsed, visits)
    messages = collectives(visits, mesh, chip, topology.shape)
    seconds = {}
    if chip.flops and chip.hbm_bandwidth:
        seconds = {"compute": work.flops / chip.flops, "memory": work.bytes / chip.hbm_bandwidth}
        network = network_seconds(messages)
        if network is not None:
            seconds["network"] = network
    mfu = None
    if seconds and program.useful_flops and chip.flops:
        mfu = program.useful_flops / (max(seconds.values()) * chip.flops * mesh.size)
    return Account(
        fits=None if chip.hbm_bytes is None else peak <= chip.hbm_bytes,
        peak_bytes=peak,
        memory=memory,
        flops=float(work.flops),
        moved_bytes=work.bytes,
        bounded=work.bounded,
        messages=tuple(messages),
        seconds=seconds,
        mfu=mfu,
        **known,
    )
