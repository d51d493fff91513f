"""Where a pure step runs: jit on a mesh of devices, or pmap over replicas."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdistill.errors import ConfigError

DATA = "data"


def make_mesh(data: int = -1, *, local: bool = False) -> Mesh:
    """Return a mesh with one axis, `data`, over `data` devices (-1: all present).

    Args:
      data: number of devices.
      local: of this process only, at most as many as it has.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    present = jax.device_count()
    size = present if data == -1 else data
    if size > present:
        raise ConfigError(
            f"parallel.data: got {size} devices, but {present} are present; "
            f"expected -1 or at most {present}"
        )
    devices = (jax.local_devices() if local else jax.devices())[:size]
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over `data`."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Move a host batch to the mesh, rows split over `data`.

    Raises:
      ConfigError: the rows do not divide by the devices.
    """
    size = mesh.shape[DATA]
    for name, leaf in batch.items():
        if leaf.shape[0] % size:
            raise ConfigError(_rows_fault(name, leaf.shape[0], size))
    return jax.device_put(dict(batch), batch_sharding(mesh))


def compile_step(step: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """Jit a training step: state donated, batch split over `data`, the rest replicated.

    Without a mesh it runs where its arguments lie.
    """
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, whole, batch_sharding(mesh)),
        out_shardings=whole,
        donate_argnums=0,
    )


def pmap_step(step: Callable[..., Any], devices: list[Any] | None = None) -> Callable[..., Any]:
    """Return the same step under `jax.pmap`, for replicated data parallelism.

    The returned function takes a replicated state, replicated teacher parameters (`replicate`) and
    a batch `[B, ...]`, which it splits over the devices. Metrics come back as one copy; the state
    stays replicated (`unreplicate` takes one copy).

    Raises:
      ConfigError: the rows do not divide by the devices.
    """
    devices = jax.local_devices() if devices is None else devices
    count = len(devices)
    mapped = jax.pmap(
        functools.partial(step, axis_name=DATA),
        axis_name=DATA,
        devices=devices,
        donate_argnums=0,
    )

    def run(state: Any, teacher_params: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        split = {}
        for name, leaf in batch.items():
            if leaf.shape[0] % count:
                raise ConfigError(_rows_fault(name, leaf.shape[0], count))
            split[name] = leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])
        state, metrics = mapped(state, teacher_params, split)
        return state, unreplicate(metrics)

    return run


def replicate(tree: Any, devices: list[Any] | None = None) -> Any:
    """Copy a pytree to every device with a leading device axis, as `pmap` wants it."""
    devices = jax.local_devices() if devices is None else devices
    mesh = Mesh(np.array(devices), (DATA,))
    sharding = NamedSharding(mesh, PartitionSpec(DATA))

    def copy(leaf):
        leaf = jnp.asarray(leaf)
        stacked = jnp.broadcast_to(leaf[None], (len(devices), *leaf.shape))
        return jax.device_put(stacked, sharding)

    return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
    """Take the first device's copy of a replicated pytree."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _rows_fault(name: str, rows: int, devices: int) -> str:
    lower = rows // devices * devices
    near = f"{lower} or {lower + devices}" if lower else f"{devices}"
    return (
        f"train.batch_size: {rows} rows of {name!r} do not divide over {devices} devices, "
        f"expected a multiple of {devices}, e.g. {near}"
    )
