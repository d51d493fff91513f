"""Changes of a config that may make it fit or faster, found by compiling them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping

from jax.sharding import Mesh

from jaxdistill.config.effects import effective
from jaxdistill.config.load import apply_override, check
from jaxdistill.config.schema import Config
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.parallel.mesh import divisors, mesh_of
from jaxdistill.planning.account import Account, accounts
from jaxdistill.planning.chips import GIB
from jaxdistill.planning.programs import Program, make_program
from jaxdistill.planning.topology import Topology
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A changed config and what it costs.

    Attributes:
      overrides: `key=value` that change the config, as the command line takes them.
      account: costs of its program.
    """

    overrides: tuple[str, ...]
    account: Account

    def as_json(self, price: float | None) -> Json:
        """Return everything as JSON values."""
        return {"overrides": list(self.overrides), **self.account.as_json(price)}


def changed(config: Config, overrides: tuple[str, ...]) -> Config:
    """Return a config with some values replaced."""
    values = effective(config)
    for override in overrides:
        apply_override(values, override)
    return check(values)


def prepare(
    config: Config, topology: Topology, name: str, overrides: tuple[str, ...]
) -> tuple[Program, Mesh]:
    """Make a program of a changed config, and the mesh that it is for.

    Raises:
      ConfigError: it cannot be laid over the devices, or what is kept alone is too much.
    """
    config = changed(config, overrides)
    mesh = mesh_of(config.parallel.sizes, topology.devices)
    program = make_program(config, mesh, name, apart=topology.chip.name == "cpu")
    held, most = sum(program.held.values()), topology.chip.hbm_bytes
    if most is not None and held > most:
        raise ConfigError(
            f"parameters, optimizer state and teacher alone take {held / GIB:.2f} GiB of "
            f"{most / GIB:.2f}"
        )
    return program, mesh


def smallest_change(
    config: Config, topology: Topology, name: str
) -> tuple[Candidate | None, list[Candidate]]:
    """Find the first change that fits; from those that alter nothing to those that cost.

    Returns:
      The change, or None, and everything that was compiled.
    """
    tried: list[Candidate] = []
    for overrides in dict.fromkeys(filter(None, changes(config, topology, name))):
        try:
            made = prepare(config, topology, _program_after(name, overrides), overrides)
        except (ConfigError, ModelError) as error:
            log.info("plan: %s cannot be: %s", " ".join(overrides), error)
            continue
        log.info("plan: trying %s", " ".join(overrides))
        tried.append(Candidate(overrides, accounts([made], topology)[0]))
        if tried[-1].account.fits:
            return tried[-1], tried
    return None, tried


def _program_after(name: str, overrides: tuple[str, ...]) -> str:
    return "cached" if name == "joint" and any("cache.codec" in o for o in overrides) else name


def changes(config: Config, topology: Topology, name: str) -> Iterator[tuple[str, ...]]:
    """Yield changes, the smallest first.

    Results stay the same with fused losses, another mesh, recomputed layers, microbatches and a
    teacher in the host's memory, one after the other and then together. A teacher in int8 is
    rounded, a cache takes a pass of it before, and a smaller batch is another training.
    """
    stage = "finetune" if name == "finetune" else "train"
    train = getattr(config, stage)
    free: list[tuple[str, ...]] = []
    if config.task_record.over_vocabulary and config.losses == "dense":
        free.append(("losses=fused",))
    if name == "joint" and config.teacher.dtype == "float32":
        free.append(("teacher.dtype=bfloat16",))
    live = name == "joint"
    if live and config.parallel.teacher == "shared" and config.parallel.sizes["data"] != 1:
        free.append(("parallel.teacher=wide",))
    meshes = list(_wider(config, len(topology.devices)))
    if not train.remat:
        free.append((f"{stage}.remat=true",))
    yield from [*free, *meshes]
    base = tuple(key for change in [*free, *meshes[-1:]] for key in change)
    yield base
    parts = _parts(config, len(topology.devices))
    rows = train.batch_size
    accumulate = 2 * train.accumulate
    while rows % (parts * accumulate) == 0:
        yield (*base, f"{stage}.accumulate={accumulate}")
        accumulate *= 2
    if live and config.parallel.teacher_memory == "device" and topology.chip.name != "cpu":
        yield (*base, "parallel.teacher_memory=host")
    if live and config.teacher.storage != "int8":
        yield ("teacher.storage=int8",)
        yield (*base, "teacher.storage=int8")
    if live and config.cache is None and config.on_policy is None:
        yield (f"cache.codec={config.default_codec}",)
        yield (*base, f"cache.codec={config.default_codec}")
    while rows % (2 * parts) == 0:
        rows //= 2
        yield (*base, f"{stage}.batch_size={rows}", f"{stage}.accumulate=1")


def _wider(config: Config, devices: int) -> Iterator[tuple[str, ...]]:
    """Yield meshes with two and four times the `fsdp`, and with all devices along it."""
    sizes = config.parallel.sizes
    most = devices // (sizes["sequence"] * sizes["tensor"])
    now = most if sizes["fsdp"] == -1 else sizes["fsdp"]
    for fsdp in dict.fromkeys((2 * now, 4 * now, most)):
        if now < fsdp <= most and most % fsdp == 0:
            yield ("parallel.data=-1", f"parallel.fsdp={fsdp}")


def _parts(config: Config, devices: int) -> int:
    """Return over how many devices rows are split."""
    return devices // (config.parallel.sizes["sequence"] * config.parallel.sizes["tensor"])


def rank(
    config: Config, topology: Topology, name: str, *, most: int = 12
) -> tuple[list[Candidate], list[str]]:
    """Compile meshes and microbatches, and sort what fits by tokens per second.

    Returns:
      What was compiled, the fastest that fits first, and why others were not.
    """
    made, tried, refused = [], [], []
    for overrides in _meshes(config, len(topology.devices)):
        if len(made) == most:
            break
        try:
            made.append(prepare(config, topology, name, overrides))
            tried.append(overrides)
        except (ConfigError, ModelError) as error:
            refused.append(f"{' '.join(overrides)}: {error}")
    log.info("plan: compiling %d meshes", len(made))
    found = [
        Candidate(overrides, one)
        for overrides, one in zip(tried, accounts(made, topology), strict=True)
    ]

    def order(candidate: Candidate) -> tuple[bool, float, int]:
        one = candidate.account
        return (one.fits is False, one.bound or 0.0, one.peak_bytes)

    return sorted(found, key=order), refused


def _meshes(config: Config, devices: int) -> Iterator[tuple[str, ...]]:
    """Yield meshes over all devices, with and without twice the microbatches."""
    twice = config.train.accumulate * 2
    sizes = [n for n in divisors(devices) if n & (n - 1) == 0 or n == devices]
    for tensor in (1, 2, 4):
        if devices % tensor:
            continue
        for fsdp in reversed([n for n in sizes if devices % (n * tensor) == 0]):
            mesh: Mapping[str, int] = {
                "data": devices // (fsdp * tensor),
                "fsdp": fsdp,
                "sequence": 1,
                "tensor": tensor,
            }
            overrides = tuple(f"parallel.{axis}={size}" for axis, size in mesh.items())
            yield overrides
            if tensor == 1 and fsdp == devices:
                yield (*overrides, f"train.accumulate={twice}")
