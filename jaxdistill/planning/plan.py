"""Plan a run for a machine that is not there: compile its programs, and estimate their costs."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from jaxdistill.config.schema import Config
from jaxdistill.doctor.checks_models import refuse_unfit
from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.files.json_files import write_answer
from jaxdistill.parallel.mesh import AXES, make_mesh, mesh_sizes, shown
from jaxdistill.planning.account import Account, accounts
from jaxdistill.planning.programs import Program, make_program
from jaxdistill.planning.search import Candidate, changed, rank, smallest_change
from jaxdistill.planning.topology import Topology, open_topology
from jaxdistill.setup.resolve import teacher_kind
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a config costs on a topology.

    Attributes:
      config: name of the config.
      topology: machine that was planned for.
      mesh: sizes of its axes.
      programs: the account of each; the first decides `fits`.
      dense: the first with losses from whole logits, where the config's are fused.
      change: the smallest change that makes the first fit, where it does not.
      tried: every change that was compiled for that.
      ranked: meshes and microbatches by speed, where asked for.
      refused: meshes and microbatches that cannot be laid out, and why.
      price: per chip and hour.
      taken_seconds: to make this plan.
    """

    config: str
    topology: Topology
    mesh: dict[str, int]
    programs: tuple[Account, ...]
    dense: Account | None = None
    change: Candidate | None = None
    tried: tuple[Candidate, ...] = ()
    ranked: tuple[Candidate, ...] = ()
    refused: tuple[str, ...] = ()
    price: float | None = None
    taken_seconds: float = 0.0

    @property
    def main(self) -> Account:
        """The first program's account."""
        return self.programs[0]

    @property
    def fits(self) -> bool | None:
        """Whether every program fits; None where the memory's size is not known."""
        known = [one.fits for one in self.programs]
        return None if None in known else all(known)

    @property
    def peak_bytes_per_device(self) -> int:
        """Of the program that needs most."""
        return max(one.peak_bytes for one in self.programs)

    def as_json(self) -> Json:
        """Return everything as JSON values."""
        price = self.price
        return {
            "config": self.config,
            "topology": self.topology.name,
            "chip": self.topology.chip.name,
            "devices": self.main.devices,
            "mesh": self.mesh,
            "fits": self.fits,
            "peak_bytes_per_device": self.peak_bytes_per_device,
            "hbm_bytes_per_device": self.main.hbm_bytes,
            "breakdown": self.main.memory,
            "programs": {one.name: one.as_json(price) for one in self.programs},
            "dense": None if self.dense is None else self.dense.as_json(price),
            "smallest_change": None if self.change is None else self.change.as_json(price),
            "tried": [one.as_json(price) for one in self.tried],
            "search": [one.as_json(price) for one in self.ranked],
            "refused": list(self.refused),
            "price_per_chip_hour": price,
            "taken_seconds": self.taken_seconds,
        }

    def write(self, path: Path) -> None:
        """Write `as_json` to a file.

        Raises:
          ConfigError: it cannot be written.
        """
        write_answer(path, self.as_json())


def plan(
    config: Config | str | Mapping[str, object],
    topology: str,
    *,
    mesh: str | Mapping[str, int] | None = None,
    programs: Sequence[str] | None = None,
    search: bool = False,
    dense: bool = True,
    suggest: bool = True,
    price: float | None = None,
    machine_code: bool = False,
) -> Plan:
    """Compile the programs of a run for a topology, from shapes alone, and estimate their costs.

    Neither weights nor data need to exist, nor the devices, but for GPUs. `cpu:8` needs as many
    virtual devices, see `topology.settle`.

    Args:
      config: checked, or a file's or recipe's name, or nested values.
      topology: `v5e:16x16`, `v5p:4x4x4`, …; `cpu:8`; `gpu` for the GPUs at hand.
      mesh: sizes of the mesh's axes, `data=16,fsdp=16` or a mapping; the config's by default.
      programs: names from `programs.PROGRAMS`; by default the step that the config trains with.
      search: rank meshes and microbatches, too.
      dense: report also what a language model's losses would need from whole logits.
      suggest: look for the smallest change where it does not fit.
      price: price of a chip and hour, for the cost of a billion tokens.
      machine_code: compile for TPUs to the end, which takes minutes: the machine code is counted,
        and it is known that there is one.

    Raises:
      ConfigError: an unknown topology, libtpu not installed, or what cannot be laid over the mesh,
        before anything is compiled.
    """
    start = time.monotonic()
    config = _config(config)
    refuse_unfit(config)
    machine = open_topology(topology)
    if mesh is not None:
        sizes = parse_mesh(mesh) if isinstance(mesh, str) else dict(mesh)
        overrides = dict.fromkeys(AXES, 1) | sizes
        config = changed(config, tuple(f"parallel.{name}={n}" for name, n in overrides.items()))
    sizes = mesh_sizes(config.parallel.sizes, len(machine.devices))
    _check_used(sizes, machine)
    made = make_mesh(**sizes, devices=machine.devices)
    names = programs or [trained(config)]
    apart = machine.chip.name == "cpu"
    prepared = [make_program(config, made, name, apart=apart) for name in names]
    beside = _dense_program(config, made, names[0], apart) if dense else None
    every = prepared if beside is None else [*prepared, beside]
    told = " and ".join([*names, *([] if beside is None else [f"{names[0]} with dense losses"])])
    log.info("plan: compiling %s for %s on %s", told, shown(sizes), machine.name)
    laid = [(program, made) for program in every]
    found = accounts(laid, machine, machine_code=machine_code)
    main, dense_account = found[: len(names)], None if beside is None else found[-1]
    change, tried = None, []
    if suggest and main[0].fits is False:
        change, tried = smallest_change(config, machine, names[0])
    ranked, refused = rank(config, machine, names[0]) if search else ([], [])
    return Plan(
        config=config.name,
        topology=machine,
        mesh=sizes,
        programs=tuple(main),
        dense=dense_account,
        change=change,
        tried=tuple(tried),
        ranked=tuple(ranked),
        refused=tuple(refused),
        price=price,
        taken_seconds=time.monotonic() - start,
    )


def parse_mesh(text: str) -> dict[str, int]:
    """Read `data=16,fsdp=16`.

    Raises:
      ConfigError: an unknown axis, or no number.
    """
    sizes = {}
    for part in text.split(","):
        name, separator, number = part.strip().partition("=")
        if name not in AXES or not separator:
            raise ConfigError(
                f"mesh: got {part!r}, expected sizes of {list(AXES)}, e.g. data=16,fsdp=16."
                f"{did_you_mean(name, AXES)}"
            )
        try:
            sizes[name] = int(number)
        except ValueError:
            raise ConfigError(f"mesh.{name}: got {number!r}, expected a whole number") from None
    return sizes


def _config(config: Config | str | Mapping[str, object]) -> Config:
    from jaxdistill.config.load import check, load_config

    if isinstance(config, Config):
        return config
    return load_config(config) if isinstance(config, str) else check(config)


def _check_used(sizes: Mapping[str, int], machine: Topology) -> None:
    used, present = 1, len(machine.devices)
    for size in sizes.values():
        used *= size
    if used < present and machine.chip.dimensions:
        raise ConfigError(
            f"mesh: got {shown(sizes)}, which leaves {present - used} of {present} chips of "
            f"{machine.name} idle; expected a product of {present}, e.g. data=-1 for all that are "
            "left, or a smaller topology"
        )


def trained(config: Config) -> str:
    """Return the name of the program that a run of the config distils with."""
    return "joint" if teacher_kind(config) == "live" else "cached"


def _dense_program(config: Config, mesh: Mesh, name: str, apart: bool) -> Program | None:
    if not config.task_record.over_vocabulary or config.losses == "dense" or name == "generate":
        return None
    try:
        return make_program(changed(config, ("losses=dense",)), mesh, name, apart=apart)
    except ConfigError as error:
        log.info("plan: nothing to compare with: %s", error)
        return None
