"""What timing a step needs: the devices' peak, arrays of given shapes, and clocks around steps."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.tree_util import KeyPath

from jaxdistill.data.batching.batch_source import BatchInfo
from jaxdistill.planning.chips import CPU, chip_of
from jaxdistill.planning.topology import Topology
from jaxdistill.types import Json, Tree

WARM, TRACED = 2, 3
"""Steps before any is timed, and those of a trace."""
_SIZE = 1024  # of the matrices whose product tells the peak of a CPU


@dataclasses.dataclass(frozen=True)
class Peak:
    """Operations per second that all devices of a mesh reach together, and who says so."""

    flops: float
    source: str


@dataclasses.dataclass(frozen=True)
class Step:
    """One step that was timed: seconds in all, those waiting for its batch, and what it held."""

    seconds: float
    waiting: float = 0.0
    info: BatchInfo | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """Steps that were timed.

    Attributes:
      steps: number of steps of all repeats.
      milliseconds: time of a step: the percentiles `p10`, `p50` and `p90`.
      spread: largest less smallest median of the repeats, over the median of all.
      tokens_per_second: over all devices, padding is none; None where examples have no tokens.
      examples_per_second: throughput in examples.
      padding: share of the computed tokens that is padding.
      waiting: share of the time in which the devices waited for data.
      first_seconds: time of the loader's first steps, one of each shape: mostly to compile them.
    """

    steps: int
    milliseconds: dict[str, float]
    spread: float
    tokens_per_second: float | None
    examples_per_second: float
    padding: float = 0.0
    waiting: float = 0.0
    first_seconds: float | None = None


def topology_of(mesh: Mesh) -> Topology:
    """Return the machine that a mesh lies on, as a plan sees it."""
    devices = tuple(mesh.devices.flat)
    first = devices[0]
    chip = chip_of(first.device_kind, first.platform)
    shape = (len(devices),)
    if chip.dimensions:
        places = np.array([device.coords[: chip.dimensions] for device in devices])
        shape = tuple(int(size) for size in np.ptp(places, axis=0) + 1)
    return Topology(f"{first.platform}:{len(devices)}", chip, shape, devices)


def peak_of(topology: Topology, dtype: str) -> Peak:
    """Return the peak of a machine: its chips' data sheet, else what a matrix product reaches."""
    chip, count = topology.chip, len(topology.devices)
    if chip.flops is not None:
        return Peak(chip.flops * count, f"{count} x {chip.name} by its data sheet, bfloat16")
    x = jnp.ones((_SIZE, _SIZE), dtype, device=topology.devices[0])
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    # Virtual devices of one host share its cores: together they reach what one alone does.
    alike = 1 if chip == CPU else count
    source = f"measured by a product of {_SIZE} x {_SIZE} matrices in {dtype}"
    return Peak(alike * 2 * _SIZE**3 / min(seconds), source)


def materialized(arguments: tuple[Tree, ...], vocabulary: int | None, labels: int) -> Tree:
    """Make arrays of the shapes and layouts that a step takes: state, frozen parameters and batch.

    Weights are small numbers that differ, scales 1, the optimizer's state 0; every token of the
    batch is real.
    """
    leaves, form = jax.tree.flatten_with_path(arguments)

    def draw() -> list[jax.Array]:
        return [_value(path, leaf, vocabulary, labels) for path, leaf in leaves]

    on_device = [leaf.sharding.with_memory_kind("device") for _, leaf in leaves]
    made = jax.jit(draw, out_shardings=on_device)()
    placed = [jax.device_put(x, leaf.sharding) for x, (_, leaf) in zip(made, leaves, strict=True)]
    return form.unflatten(placed)


def _value(path: KeyPath, leaf: Tree, vocabulary: int | None, labels: int) -> jax.Array:
    names = [str(getattr(part, "name", getattr(part, "key", ""))) for part in path]
    name, shape = names[-1], leaf.shape
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0, impl=leaf.dtype._impl.name)
    count = lax.iota(jnp.int32, max(int(np.prod(shape)), 1)).reshape(shape)
    if path[0].idx == 2:
        if name in ("input_ids", "decoder_input_ids") or (name == "labels" and len(shape) > 1):
            values = count * 31 % (vocabulary or labels)
        elif name == "labels":
            values = count % labels
        elif name == "position_ids":
            values = count % shape[-1]
        elif name in ("attention_mask", "segment_ids", "loss_mask", "weight"):
            values = jnp.ones(shape)
        else:
            floats = jnp.issubdtype(leaf.dtype, jnp.floating)
            values = jnp.sin(count * 1.7) if floats else jnp.zeros(shape)
        return values.astype(leaf.dtype)
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or "opt_state" in names or "bias" in names:
        return jnp.zeros(shape, leaf.dtype)
    if "scale" in names or name in ("var", "variance"):
        return jnp.ones(shape, leaf.dtype)
    return (0.02 * jnp.sin(count * 1.7)).astype(leaf.dtype)


def timed_made_up(
    step: Callable[..., Tree], arguments: tuple[Tree, ...], count: int
) -> tuple[list[Step], tuple[Tree, ...]]:
    """Run a step on one batch again and again; also return what the next call takes."""
    state, frozen, batch = arguments
    times = []
    for number in range(count):
        start = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("made-up", step_num=number):
            state, metrics = step(state, frozen, batch)
            jax.block_until_ready(metrics)
        times.append(Step(time.perf_counter() - start))
    return times, (state, frozen, batch)


def timed_loader(
    step: Callable[..., Tree],
    state: Tree,
    frozen: Tree,
    batches: Iterator[tuple[Tree, BatchInfo]],
    count: int,
) -> tuple[list[Step], Tree]:
    """Run a step on batches of a loader, which works ahead while the devices compute."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        batch, info = next(batches)
        waited = time.perf_counter() - start
        with jax.profiler.StepTraceAnnotation("loader", step_num=number):
            state, metrics = step(state, frozen, batch)
            jax.block_until_ready(metrics)
        times.append(Step(time.perf_counter() - start, waited, info))
    return times, state


def percentiles(times: list[list[Step]]) -> Json:
    """Return the first fields of `Timing`, from the steps of each repeat."""
    seconds = np.array([[step.seconds for step in found] for found in times])
    medians = np.median(seconds, axis=1)
    spots = {f"p{share}": float(np.percentile(1e3 * seconds, share)) for share in (10, 50, 90)}
    spread = float(np.ptp(medians) / np.median(seconds))
    return {"steps": seconds.size, "milliseconds": spots, "spread": spread}


def peak_in_use(mesh: Mesh) -> int | None:
    """Return the most bytes that a device of this process has held, where it counts them."""
    found = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in mesh.local_devices
    ]
    known = [value for value in found if value is not None]
    return max(known, default=None)


def traced(folder: Path | None) -> contextlib.AbstractContextManager[object]:
    """Write a profiler trace to a folder, or do nothing."""
    return contextlib.nullcontext() if folder is None else jax.profiler.trace(str(folder))
