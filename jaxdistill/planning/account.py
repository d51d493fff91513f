"""What one program costs on one chip of a topology: memory, work, messages, and floors of time."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill.config.effects import effective
from jaxdistill.planning.chips import GIB, TPUS
from jaxdistill.planning.compiled import hlo, loops
from jaxdistill.planning.compiled.collectives import Collective, collectives, network_seconds
from jaxdistill.planning.compiled.draft import Draft, NoDraftError, draft
from jaxdistill.planning.compiled.work import measure
from jaxdistill.planning.programs import Program
from jaxdistill.planning.topology import Topology
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

Made = jax.stages.Compiled | Draft | int
"""An executable, its draft, or the bytes of a program that does not fit."""

# The message of the compiler for TPUs on a program that is too large, in two of its wordings.
_USED = re.compile(r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)(?: of|\) exceeds)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Account:
    """One program on one device of a mesh.

    Attributes:
      name: name of the program.
      fits: whether it compiles within the memory; None where the memory's size is not known.
      peak_bytes: memory in use at once; the compiler's estimate where it does not fit.
      hbm_bytes: memory that a program may use, or None.
      memory: bytes of `parameters`, `optimizer`, `teacher`, `batch`, `activations`
        (what one loop over layers stacks up for another), `temporaries` (gradients, workspace, and
        activations that are not stacked) and `program`, its machine code where that was made.
      flops, moved_bytes: operations and memory traffic of a step, bodies of loops as often as they
        run; None where not compiled.
      bounded: whether all loops' numbers of turns are known.
      messages: over the interconnect.
      seconds: floors by `compute`, `memory` and `network`; empty where the chip is not known.
      tokens: size of a step over all devices, counted in `unit`.
      useful_flops, run_flops: operations of a step, as in `Program`.
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
        """Rate of all devices, at most."""
        return self.tokens / self.bound if self.bound else None

    def cost(self, price: float) -> float | None:
        """Return the least cost of a billion tokens, at a price per chip and hour."""
        rate = self.tokens_per_second
        return 1e9 / rate / 3600 * price * self.devices if rate else None

    def as_json(self, price: float | None) -> Json:
        """Return everything as JSON values."""
        return dataclasses.asdict(self) | {
            "step_seconds_at_least": self.bound,
            "tokens_per_second_at_most": self.tokens_per_second,
            "cost_per_billion_tokens": None if price is None else self.cost(price),
        }


def accounts(
    programs: Sequence[tuple[Program, Mesh]], topology: Topology, *, machine_code: bool = False
) -> list[Account]:
    """Compile programs, two at a time where there are two cores, and return their costs.

    For TPUs as far as their layout in memory, which takes seconds, but for the loss alone, which is
    small.

    Args:
      programs: each with the mesh that it was made for.
      topology: machine that all meshes belong to.
      machine_code: compile to the end for TPUs, too.

    Raises:
      jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    whole = machine_code or topology.chip.name not in TPUS

    def compiled(one: tuple[Program, Mesh]) -> Made:
        program, mesh = one
        if whole or program.name == "loss":
            return _compile(program)
        return _draft(program, mesh, topology)

    with ThreadPoolExecutor(max(1, min(2, os.cpu_count() or 1))) as pool:
        found = list(pool.map(compiled, programs))
    return [
        account(program, one, mesh, topology)
        for (program, mesh), one in zip(programs, found, strict=True)
    ]


def _draft(program: Program, mesh: Mesh, topology: Topology) -> Made:
    """Return the draft of a program, or what `_compile` does where there is none."""
    values = effective(program.config)
    try:
        found = draft(values, program.name, dict(mesh.shape), topology.name)
    except NoDraftError as error:
        log.warning(
            "plan: compiling %s to the end, which takes minutes: no layout from the compiler (%s)",
            program.name,
            error,
        )
        return _compile(program)
    if isinstance(found, Draft):
        return found
    # A refusal for another reason than memory is raised by the compiler of this process.
    return _bytes_needed(found) or _compile(program)


def _compile(program: Program) -> Made:
    """Return the executable, or the bytes that it would need where they are too many."""
    try:
        return program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := _bytes_needed(str(error))) is None:
            raise
        return needed


def _bytes_needed(message: str) -> int | None:
    used = _USED.search(message)
    return None if used is None else int(float(used.group(1)) * _UNITS[used.group(2)])


def account(program: Program, compiled: Any, mesh: Mesh, topology: Topology) -> Account:
    """Say what an executable or a draft costs; a number is the bytes of one that does not fit."""
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
    parsed = hlo.parse(compiled.text if isinstance(compiled, Draft) else compiled.as_text())
    kept = int(loops.kept_between_loops(parsed))
    if isinstance(compiled, Draft):
        peak, code = compiled.peak_bytes, 0
        temporaries = max(peak - sum(program.held.values()), 0)
    else:
        found = compiled.memory_analysis()
        temporaries, code = found.temp_size_in_bytes, found.generated_code_size_in_bytes
        outputs = found.output_size_in_bytes - found.alias_size_in_bytes
        peak = found.argument_size_in_bytes + max(outputs, 0) + temporaries + code
    kept = min(kept, temporaries)
    memory = {
        **program.held,
        "activations": kept,
        "temporaries": temporaries - kept,
        "program": code,
    }
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
