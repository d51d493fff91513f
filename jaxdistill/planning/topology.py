"""Machines by name: `v5e:16x16` through libtpu, `cpu:8`, or the GPUs at hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.planning.chips import CPU, TPUS, Chip, chip_of

# What the compiler for TPUs asks the environment where there is none.
_LIBTPU = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine to compile for.

    Attributes:
      name: name that it was asked for by.
      chip: what each device is.
      shape: chips along each dimension.
      devices: for `jax.sharding.Mesh`.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: tuple[Any, ...]


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Split `v5e:16x16` into the kind of chip and their numbers; touches no device.

    Raises:
      ConfigError: an unknown kind, or a shape that no such machine has.
    """
    kind, _, text = name.partition(":")
    known = [*TPUS, "cpu", "gpu"]
    if kind not in known:
        raise ConfigError(
            f"topology: got {name!r}, expected one of {known} and a shape, e.g. v5e:16x16, "
            f"v5p:4x4x4, cpu:8.{did_you_mean(kind, known)}"
        )
    if kind == "gpu" and not text:
        return kind, ()
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        example = TPUS[kind].examples[-1] if kind in TPUS else "8"
        raise ConfigError(f"topology: got {name!r}, expected {kind}:{example} or the like")
    shape = tuple(int(part) for part in text.split("x"))
    if kind not in TPUS:
        if len(shape) > 1:
            raise ConfigError(
                f"topology: got {name!r}, expected a number of devices, {kind}:{math.prod(shape)}"
            )
        return kind, shape
    chip = TPUS[kind]
    examples = ", ".join(f"{kind}:{shape}" for shape in chip.examples)
    if len(shape) != chip.dimensions:
        raise ConfigError(
            f"topology: got {name!r}, expected {chip.dimensions} dimensions, one of {examples}"
        )
    if text not in chip.examples and any(size % 4 for size in shape):
        raise ConfigError(
            f"topology: got {name!r}, expected one of {examples}, or larger multiples of 4"
        )
    return kind, shape


def missing_libtpu() -> str | None:
    """Return why nothing can be compiled for a TPU here, or None.

    A libtpu of another time than jaxlib writes programs that jaxlib cannot always read.
    """
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed; pip install 'jax[tpu]' (no TPU needed)"
    try:
        installed = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None
    for requirement in map(Requirement, metadata.requires("jax") or ()):
        fits = requirement.specifier.contains(installed, prereleases=True)
        if requirement.name == "libtpu" and not fits:
            return (
                f"libtpu {installed} is installed and jax {metadata.version('jax')} goes with "
                f"libtpu{requirement.specifier}; pip install 'jax[tpu]' (no TPU needed)"
            )
    return None


def settle(name: str) -> None:
    """Set what jax and libtpu read of the process when they start; call it before jax is used.

    A machine that is not there needs no device of this one but the CPU's.

    Raises:
      ConfigError: an unknown topology, or libtpu is not installed.
    """
    kind, shape = parse(name)
    if kind == "gpu":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if kind == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_force_host_platform_device_count" not in flags:
            count = f"--xla_force_host_platform_device_count={shape[0]}"
            os.environ["XLA_FLAGS"] = f"{flags} {count}".strip()
    else:
        prepare_libtpu(name)


def prepare_libtpu(name: str) -> None:
    """Set the environment that libtpu reads, where it is not set.

    Raises:
      ConfigError: libtpu is not installed.
    """
    if (reason := missing_libtpu()) is not None:
        raise ConfigError(f"topology: got {name!r}, but {reason}")
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)


def tpu_devices(name: str) -> tuple[Any, ...]:
    """Return the devices of a TPU topology that is not there, one per chip.

    Raises:
      ConfigError: libtpu is not installed, or knows no such shape.
    """
    prepare_libtpu(name)
    import jax
    from jax.experimental import topologies

    kind, shape = parse(name)
    # v4 and v5p have two cores to a chip, which programs see as one device.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if math.prod(shape) == 1:
        options |= {"chips_per_host_bounds": (1, 1, 1), "num_slices": 1}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        examples = ", ".join(f"{kind}:{known}" for known in TPUS[kind].examples)
        raise ConfigError(
            f"topology: got {name!r}, which libtpu refuses ({str(error).splitlines()[0]}); "
            f"expected e.g. {examples}"
        ) from None
    return tuple(found.devices)


def open_topology(name: str) -> Topology:
    """Return the machine of that name.

    Raises:
      ConfigError: it is unknown, libtpu is not installed, or there are fewer devices at hand.
    """
    kind, shape = parse(name)
    if kind in TPUS:
        return Topology(name, TPUS[kind], shape, tpu_devices(name))
    import jax

    try:
        present = jax.devices(kind)
    except RuntimeError:
        raise ConfigError(
            f"topology: got {name!r}, but jax sees no GPU; pip install 'jax[cuda13]' where there "
            "is one, or plan for cpu:8 or a TPU"
        ) from None
    count = shape[0] if shape else len(present)
    if count > len(present):
        fix = "; set XLA_FLAGS=--xla_force_host_platform_device_count before jax starts"
        raise ConfigError(
            f"topology: got {name!r}, but {len(present)} devices are present, expected at most "
            f"{kind}:{len(present)}{fix if kind == 'cpu' else ''}"
        )
    chip = CPU if kind == "cpu" else chip_of(present[0].device_kind, kind)
    return Topology(name, chip, (count,), tuple(present[:count]))
