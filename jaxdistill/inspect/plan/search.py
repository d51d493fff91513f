"""Changes of a config that may make it fit or faster, found by compiling them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdistill.config import Config
from jaxdistill.config_file import apply_override, check
from jaxdistill.engine.mesh import divisors, make_mesh
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.inspect.plan.account import Account, accounts
from jaxdistill.inspect.plan.programs import make_program
from jaxdistill.inspect.plan.topology import Topology

log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A changed config and what it costs.

    Attributes:
      overrides: `key=value` that change the config, as the command line takes them.
      account: of its program.
    """

    overrides: tuple[str, ...]
    account: Account

    def as_json(self, price: float | None) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"overrides": list(self.overrides), **self.account.as_json(price)}


def changed(config: Config, overrides: tuple[str, ...]) -> Config:
    """Return a config with some values replaced."""
    values = config.model_dump(mode="json")
    for override in overrides:
        apply_override(values, override)
    return check(values)


def measure(
    config: Config, topology: Topology, name: str, overrides: tuple[str, ...] = ()
) -> Candidate:
    """Compile a program of a changed config.

    Raises:
      ConfigError: it cannot be laid over the devices.
    """
    config = changed(config, overrides) if overrides else config
    mesh = make_mesh(**config.parallel.sizes, devices=topology.devices)
    program = make_program(config, mesh, name, apart=topology.chip.name == "cpu")
    return Candidate(overrides, accounts([program], mesh, topology)[0])


def smallest_change(
    config: Config, topology: Topology, name: str
) -> tuple[Candidate | None, list[Candidate]]:
    """Find the first change that fits; from those that alter nothing to those that cost.

    Returns:
      The change, or None, and everything that was compiled.
    """
    tried: list[Candidate] = []
    for overrides in changes(config, topology, name):
        try:
            found = measure(config, topology, _program_after(name, overrides), overrides)
        except (ConfigError, ModelError) as error:
            log.info("plan: %s cannot be: %s", " ".join(overrides), error)
            continue
        tried.append(found)
        if found.account.fits:
            return found, tried
    return None, tried


def _program_after(name: str, overrides: tuple[str, ...]) -> str:
    return "cached" if name == "joint" and any("cache.codec" in o for o in overrides) else name


def changes(config: Config, topology: Topology, name: str) -> Iterator[tuple[str, ...]]:
    """Yield changes, the smallest first.

    Results stay the same with fused losses, another mesh, recomputed layers and microbatches; the
    time of a step grows from one to the next. A cache takes a pass of the teacher before, and a
    smaller batch is another training.
    """
    stage = "finetune" if name == "finetune" else "train"
    train = getattr(config, stage)
    steps: list[tuple[str, ...]] = []
    if config.task == "language_model" and config.losses == "dense":
        steps.append(("losses=fused",))
    if config.teacher.dtype == "float32" and name == "joint":
        steps.append(("teacher.dtype=bfloat16",))
    whole = len(topology.devices)
    sizes = config.parallel.sizes
    for fsdp in [n for n in divisors(whole) if n > max(sizes["fsdp"], 1)]:
        if whole % (fsdp * sizes["sequence"] * sizes["tensor"]) == 0 and fsdp in _tried(whole):
            steps.append(("parallel.data=-1", f"parallel.fsdp={fsdp}"))
    if not train.remat:
        steps.append((f"{stage}.remat=true",))
    rows = train.batch_size
    parts = _parts(config, whole)
    most = rows // parts if rows % parts == 0 else 1
    halves = [n for n in divisors(most) if n > train.accumulate and n & (n - 1) == 0]
    base = () if train.remat else (f"{stage}.remat=true",)
    for accumulate in halves:
        steps.append((*base, f"{stage}.accumulate={accumulate}"))
    if name == "joint" and config.cache is None and config.on_policy is None:
        codec = "sampled" if config.task == "language_model" else "full"
        steps.append((*base, f"cache.codec={codec}"))
    smaller = rows // 2
    while smaller >= parts:
        steps.append((*base, f"{stage}.batch_size={smaller}", f"{stage}.accumulate=1"))
        smaller //= 2
    widest = (("parallel.data=-1", f"parallel.fsdp={whole}"), base)
    if not any(isinstance(step, tuple) and step == widest[0] + base for step in steps):
        steps.append(widest[0] + base)
    yield from dict.fromkeys(step for step in steps if step)


def _tried(whole: int) -> set[int]:
    """Return the sizes worth a compilation: powers of two from 8 on, and all devices."""
    return {2**n for n in range(3, 12)} | {whole}


def _parts(config: Config, whole: int) -> int:
    sizes = config.parallel.sizes
    fixed = math.prod(size for size in sizes.values() if size != -1)
    batch = {name: whole // fixed if size == -1 else size for name, size in sizes.items()}
    return max(batch["data"] * batch["fsdp"], 1)


def rank(
    config: Config, topology: Topology, name: str, *, most: int = 12
) -> tuple[list[Candidate], list[str]]:
    """Compile meshes and microbatches, and sort what fits by tokens per second.

    Returns:
      What was compiled, the fastest that fits first, and why others were not.
    """
    found, refused = [], []
    for overrides in [*_meshes(config, len(topology.devices))][:most]:
        try:
            found.append(measure(config, topology, name, overrides))
        except (ConfigError, ModelError) as error:
            refused.append(f"{' '.join(overrides)}: {error}")

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
