"""Time the step of a run on the devices that are present, against what a plan says of it.

First on made-up batches of the config's shapes, then on those of the real loader.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from pathlib import Path

import jax

from jaxdistill.bench.loader import time_loader
from jaxdistill.bench.timing import (
    TRACED,
    WARM,
    Peak,
    Timing,
    materialized,
    peak_in_use,
    peak_of,
    percentiles,
    timed_made_up,
    topology_of,
    traced,
)
from jaxdistill.config.schema import Config
from jaxdistill.distill.models import student_shapes
from jaxdistill.distill.workspace import Workspace
from jaxdistill.errors import ConfigError
from jaxdistill.evaluation.environment import environment
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.planning.account import Account, account
from jaxdistill.planning.plan import trained
from jaxdistill.planning.programs import Program, make_program
from jaxdistill.setup.facts import facts_without_data
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

NOISY_SPREAD = 0.05
"""From this difference between the repeats' medians on, figures are called noisy."""
NOISY_LOAD = 0.5
"""From this load average per processor on, before anything ran, a machine is called shared."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
      config: name of the config.
      program: `joint`, or `cached` where the step reads outputs that the teacher gave before.
      mesh: sizes of its axes.
      shape: shape of the made-up batch's examples.
      compile_seconds: to lower and to compile the step for it.
      made_up, loader: timings; `loader` is None where it was left out.
      peak: operations per second of the devices together.
      mfu: useful operations per second over the peak, of `teacher` and `student`, on made-up
        batches; empty where the models' shapes do not tell.
      peak_bytes: largest use of one device's memory, and `peak_source`, who says so.
      floor_milliseconds: time that a step takes at least by its program, and `floor`, what limits
        it.
      notes: what to know of the figures.
      noise: why they may be those of the moment; empty where nothing was seen.
      environment: versions and devices.
      trace: where a trace of the profiler lies.
    """

    config: str
    program: str
    mesh: dict[str, int]
    shape: tuple[int, ...]
    compile_seconds: float
    made_up: Timing
    loader: Timing | None
    peak: Peak
    mfu: dict[str, float]
    peak_bytes: int
    peak_source: str
    floor_milliseconds: float | None
    floor: str | None
    notes: tuple[str, ...]
    noise: tuple[str, ...]
    environment: Json
    trace: str | None = None

    @property
    def times_the_floor(self) -> float | None:
        """How many times the floor a step on made-up batches takes."""
        bound = self.floor_milliseconds
        return self.made_up.milliseconds["p50"] / bound if bound else None

    def as_json(self) -> Json:
        """Return everything as JSON values."""
        return dataclasses.asdict(self) | {
            "times_the_floor": self.times_the_floor,
            "noisy": bool(self.noise),
        }


def bench(
    config: Config,
    workdir: Path,
    *,
    steps: int = 10,
    repeats: int = 3,
    loader: bool = True,
    trace: Path | None = None,
) -> Bench:
    """Time the step that a config distils with.

    Args:
      config: the run's.
      workdir: where its data, its fine-tuned teacher and its cache lie, where they do yet.
      steps: number of steps timed in each repeat.
      repeats: number of repeats, whose spread is the noise.
      loader: whether the loader is timed, too; without it neither data nor weights need exist.
      trace: folder for a trace of the profiler, of three more steps.

    Raises:
      ConfigError: what cannot be laid out over the devices.
      DataError, ModelError, CacheError: data, models or cache that the run itself would refuse.
    """
    for name, value in (("steps", steps), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name}: got {value}, expected at least 1")
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    mesh = mesh_of(config.parallel.sizes)
    machine = topology_of(mesh)
    peak = peak_of(machine, config.train.dtype)
    # A mistake in the data, or a cache that is not there, is found before anything is compiled.
    workspace = Workspace(config, workdir, force=False)
    dataset = workspace.dataset if loader else None
    if loader and workspace.cache_path is not None:
        assert workspace.cache is not None
    name = trained(config)
    program = make_program(config, mesh, name, apart=machine.chip.name == "cpu")
    log.info("bench: compiling the step for %s", machine.name)
    start = time.perf_counter()
    compiled = program.lower().compile()
    compile_seconds = time.perf_counter() - start
    costs = account(program, compiled, mesh, machine)
    own = None if dataset is not None else trace
    made_up = _made_up(config, program, compiled, steps, repeats, own)
    measured = peak_in_use(mesh)
    notes: list[str] = []
    if config.parallel.strategy == "pmap":
        notes.append("made-up batches run under jit, those of the loader under pmap")
    real = None
    if dataset is not None:
        real = time_loader(workspace, dataset, steps, repeats, trace, notes)
    bound, limit = _floor(costs, peak)
    seconds = made_up.milliseconds["p50"] / 1e3
    batch = program.arguments[2]
    return Bench(
        config=config.name,
        program=name,
        mesh=dict(mesh.shape),
        shape=batch.get("input_ids", next(iter(batch.values()))).shape,
        compile_seconds=compile_seconds,
        made_up=made_up,
        loader=real,
        peak=peak,
        mfu={who: count / seconds / peak.flops for who, count in program.useful.items()},
        peak_bytes=costs.peak_bytes if measured is None else measured,
        peak_source="the compiler" if measured is None else "the device",
        floor_milliseconds=None if bound is None else 1e3 * bound,
        floor=limit,
        notes=tuple(notes),
        noise=tuple(_noise(busy, made_up)),
        environment=environment(),
        trace=None if trace is None else str(trace),
    )


def _made_up(
    config: Config,
    program: Program,
    compiled: jax.stages.Compiled,
    steps: int,
    repeats: int,
    trace: Path | None,
) -> Timing:
    student = student_shapes(config, facts_without_data(config))
    labels = 1 if student.options is None else student.options.num_labels
    arguments = materialized(program.arguments, student.sizes.vocabulary, labels)
    _, arguments = timed_made_up(compiled, arguments, WARM)
    times = []
    for _ in range(repeats):
        found, arguments = timed_made_up(compiled, arguments, steps)
        times.append(found)
    with traced(trace):
        timed_made_up(compiled, arguments, 0 if trace is None else TRACED)
    rows = program.arguments[2]["labels"].shape[0]
    total = sum(step.seconds for found in times for step in found)
    rate = steps * repeats / total
    return Timing(
        **percentiles(times),
        tokens_per_second=program.tokens * rate if program.unit == "tokens" else None,
        examples_per_second=rows * rate,
    )


def _floor(costs: Account, peak: Peak) -> tuple[float | None, str | None]:
    """Return the seconds that a step takes at least, and what limits it."""
    if costs.bound is not None:
        return costs.bound, max(costs.seconds, key=lambda name: costs.seconds[name])
    if not costs.flops:
        return None, None
    return costs.flops * costs.devices / peak.flops, "compute"


def _noise(busy: float, made_up: Timing) -> list[str]:
    found = []
    if busy > NOISY_LOAD:
        count = os.cpu_count() or 1
        found.append(
            f"the load average was {busy * count:.1f} on {count} processors before anything ran: "
            "the machine is shared"
        )
    if made_up.spread > NOISY_SPREAD:
        found.append(f"the medians of the repeats differ by {100 * made_up.spread:.0f} %")
    return found
