"""What starts a run on a cluster, as a file for the cluster's tools."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from jaxdistill import __version__
from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.types import Json


class Generation(NamedTuple):
    """How Google's tools name one generation of TPUs.

    Attributes:
      dimensions: number of a topology's dimensions.
      cloud: the accelerator type on Cloud TPU, before its number.
      cores: what that number counts per chip.
      runtime: the image of its virtual machines.
      gke: the accelerator of GKE's node pools.
    """

    dimensions: int
    cloud: str
    cores: int
    runtime: str
    gke: str


GENERATIONS = {
    "v4": Generation(3, "v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": Generation(2, "v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": Generation(3, "v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": Generation(2, "v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}
_CHIPS_PER_HOST = 4
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def render(recipe: str, command: Sequence[str], settings: Sequence[str] = ()) -> str:
    """Return the file that runs a command on a cluster.

    Args:
      recipe: one of `RECIPES`.
      command: the arguments of `jaxdistill`.
      settings: `KEY=VALUE`, in place of the recipe's values.

    Raises:
      ConfigError: an unknown recipe, setting, or topology.
    """
    if recipe not in RECIPES:
        raise ConfigError(
            f"--print: got {recipe!r}, expected one of {', '.join(RECIPES)}."
            f"{did_you_mean(recipe, RECIPES)}"
        )
    file, defaults, complete = RECIPES[recipe]
    values = dict(defaults)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in defaults:
            raise ConfigError(
                f"--set: got {setting!r} for {recipe}, expected KEY=VALUE with a key of "
                f"{', '.join(defaults)}.{did_you_mean(key, defaults)}"
            )
        if isinstance(defaults[key], int):
            if not value.isdigit() or int(value) < 1:
                raise ConfigError(f"--set {key}: got {value!r}, expected a positive number")
            values[key] = int(value)
        else:
            values[key] = value
    if not _NAME.fullmatch(str(values["name"])):
        raise ConfigError(
            f"--set name: got {values['name']!r}, expected up to 40 lower-case letters, digits and "
            "hyphens, beginning with a letter"
        )
    words = ["jaxdistill", *_shared(command, str(values["mount"]), str(values["name"]))]
    values = {**values, "command": words, "line": shlex.join(words), **complete(values)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment.get_template(file).render(values)


def tpu(topology: str) -> Json:
    """Return what a topology such as `v5e:16x16` has, as Google's tools name it.

    Raises:
      ConfigError: it is unknown, or its generation has another number of dimensions.
    """
    generation, _, shape = topology.partition(":")
    known = GENERATIONS.get(generation)
    example = "v5e:16x16 or v5p:4x4x4"
    if known is None:
        raise ConfigError(
            f"--set topology: got {topology!r}, expected GENERATION:SHAPE such as {example}, with "
            f"one of {', '.join(GENERATIONS)}"
        )
    sizes = shape.split("x")
    if len(sizes) != known.dimensions or not all(size.isdigit() and int(size) for size in sizes):
        raise ConfigError(
            f"--set topology: got {topology!r}, expected {known.dimensions} sizes for "
            f"{generation}, such as {example}"
        )
    chips = math.prod(map(int, sizes))
    # Up to 8 chips of the two-dimensional generations are in one machine; larger slices have 4.
    alone = chips < _CHIPS_PER_HOST or (known.dimensions == 2 and chips <= 2 * _CHIPS_PER_HOST)
    per_host = chips if alone else _CHIPS_PER_HOST
    if chips % per_host:
        raise ConfigError(
            f"--set topology: got {topology!r}, {chips} chips, expected a multiple of {per_host}"
        )
    return {
        "generation": generation,
        "topology": shape,
        "chips": chips,
        "chips_per_host": per_host,
        "hosts": chips // per_host,
        "accelerator": known.gke,
        "accelerator_type": f"{known.cloud}-{known.cores * chips}",
        "runtime": known.runtime,
    }


def _shared(command: Sequence[str], mount: str, name: str) -> list[str]:
    """Put the work directory where all processes see it, unless the command says where."""
    if any(word == "--workdir" or word.startswith("--workdir=") for word in command):
        return list(command)
    return [*command, "--workdir", f"{mount}/{name}"]


def _on_tpu(values: Json) -> Json:
    return tpu(str(values["topology"]))


def _on_tpu_machines(values: Json) -> Json:
    return {"setup": f"pip install {shlex.quote(values['package'])} 'jax[tpu]'", **_on_tpu(values)}


def _on_hosts(values: Json) -> Json:
    hosts = [host for host in str(values["hosts"]).split(",") if host]
    if not hosts or len(set(hosts)) < len(hosts):
        raise ConfigError(f"--set hosts: got {values['hosts']!r}, expected A,B,… each once")
    return {"hosts": hosts}


def _nothing_more(values: Json) -> Json:
    return {}


_Complete = Callable[[Json], Json]
RECIPES: dict[str, tuple[str, dict[str, str | int], _Complete]] = {
    "gke": (
        "gke.yaml.jinja",
        {
            "name": "jaxdistill",
            "topology": "v5e:4x4",
            "slices": 1,
            "restarts": 10,
            "image": f"REGISTRY/jaxdistill:{__version__}",
            "claim": "jaxdistill",
            "mount": "/shared",
        },
        _on_tpu,
    ),
    "slurm": (
        "slurm.sh.jinja",
        {
            "name": "jaxdistill",
            "nodes": 2,
            "gpus_per_node": 8,
            "cpus_per_task": 8,
            "time": "24:00:00",
            "mount": "/shared",
        },
        _nothing_more,
    ),
    "tpu": (
        "tpu.sh.jinja",
        {
            "name": "jaxdistill",
            "topology": "v5e:4x4",
            "zone": "us-central1-a",
            "package": f"jaxdistill=={__version__}",
            "mount": "/shared",
        },
        _on_tpu_machines,
    ),
    "gpu": (
        "gpu.sh.jinja",
        {"name": "jaxdistill", "hosts": "host0,host1", "port": 8476, "mount": "/shared"},
        _on_hosts,
    ),
}
"""By name: the template, its settings with their values, and what follows from them."""
