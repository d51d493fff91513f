"""Where a pure step runs: jit on a mesh of devices, or pmap over replicas."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdistill.errors import ConfigError
from jaxdistill.parallel.mesh import DATA, check_rows, make_mesh, rows_fault
from jaxdistill.parallel.sharding import batch_shardings, on_mesh, place, replicated
from jaxdistill.types import Tree

Returned = TypeVar("Returned")


def place_batch(batch: Mapping[str, jax.Array | np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Move a host batch to the mesh: rows over `data` and `fsdp`, tokens of a row over `sequence`.

    Raises:
      ConfigError: the rows do not divide by the devices.
    """
    for name, leaf in batch.items():
        check_rows(name, leaf.shape[0], mesh)
    return place(dict(batch), batch_shardings(batch, mesh))


def compile_step(
    step: Callable[..., Returned],
    mesh: Mesh | None = None,
    *,
    state_sharding: Tree = None,
    frozen_sharding: Tree = None,
) -> Callable[..., Returned]:
    """Jit a training step: state donated, batch split over the mesh.

    Without a mesh it runs where its arguments lie.

    Args:
      step: `(state, frozen, batch) -> (state, metrics)`.
      mesh: devices, see `make_mesh`.
      state_sharding: shardings of every array of the state, as `state_shardings` gives them; whole
        copies by default.
      frozen_sharding: shardings of every array of `frozen`, as it is given; whole copies by
        default.
    """
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    whole = replicated(mesh)
    state_sharding = whole if state_sharding is None else state_sharding
    frozen_sharding = whole if frozen_sharding is None else frozen_sharding

    @functools.wraps(step)
    def laid_out(state: Tree, frozen: Tree, batch: Tree) -> Tree:
        with on_mesh(mesh):
            return step(state, frozen, batch)

    return jax.jit(
        laid_out,
        in_shardings=(state_sharding, frozen_sharding, None),
        out_shardings=(state_sharding, whole),
        donate_argnums=0,
    )


def compile_evaluation(
    step: Callable[..., Returned], mesh: Mesh, *, whole: bool = True
) -> Callable[..., Returned]:
    """Jit `(params, batch, …) -> results`, which come back whole on every device.

    Without `whole` they stay where they are computed.
    """

    @functools.wraps(step)
    def laid_out(*arguments: Tree) -> Tree:
        with on_mesh(mesh):
            return step(*arguments)

    return jax.jit(laid_out, out_shardings=replicated(mesh) if whole else None)


def pmap_step(
    step: Callable[..., tuple[Tree, Tree]], devices: Sequence[Any] | None = None
) -> Callable[..., tuple[Tree, Tree]]:
    """Return the same step under `jax.pmap`, for replicated data parallelism.

    The returned function takes a replicated state, replicated frozen parameters (`replicate`) and a
    batch `[B, ...]`, which it splits over the devices. Metrics come back as one copy; the state
    stays replicated (`unreplicate` takes one copy).

    Raises:
      ConfigError: the rows do not divide by the devices.
    """
    devices = jax.local_devices() if devices is None else devices
    count = len(devices)
    # A replica is one device: inside of it, nothing is laid out over a mesh.
    one = make_mesh(1, devices=devices[:1])

    @functools.wraps(step)
    def on_one(state: Tree, frozen: Tree, batch: Tree) -> Tree:
        with on_mesh(one):
            return step(state, frozen, batch, axis_name=DATA)

    mapped = jax.pmap(
        on_one,
        axis_name=DATA,
        devices=devices,
        donate_argnums=0,
    )

    def run(
        state: Tree, frozen: Tree, batch: Mapping[str, jax.Array | np.ndarray]
    ) -> tuple[Tree, Tree]:
        split = {}
        for name, leaf in batch.items():
            if leaf.shape[0] % count:
                raise ConfigError(rows_fault(name, leaf.shape[0], count))
            split[name] = leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])
        state, metrics = mapped(state, frozen, split)
        return state, unreplicate(metrics)

    return run


def replicate(tree: Tree, devices: Sequence[Any] | None = None) -> Tree:
    """Copy a pytree to every device with a leading device axis, as `pmap` wants it."""
    devices = jax.local_devices() if devices is None else devices
    mesh = Mesh(np.array(devices), (DATA,))
    sharding = NamedSharding(mesh, PartitionSpec(DATA))

    def copy(leaf):
        leaf = jnp.asarray(leaf)
        stacked = jnp.broadcast_to(leaf[None], (len(devices), *leaf.shape))
        return jax.device_put(stacked, sharding)

    return jax.tree.map(copy, tree)


def unreplicate(tree: Tree) -> Tree:
    """Take the first device's copy of a replicated pytree."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
