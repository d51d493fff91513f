"""The rows of a batch that this process's devices hold, and how they become one global array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdistill.data.batching.draws import WHOLE, Part
from jaxdistill.errors import ConfigError
from jaxdistill.parallel.compilation import place_batch
from jaxdistill.parallel.mesh import shown
from jaxdistill.parallel.sharding import batch_sharding, batch_shardings
from jaxdistill.runtime.rendezvous import name_processes


def rows_on(mesh: Mesh) -> tuple[Part, Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]]:
    """Return which rows of a batch this process has to read, and what lays them on the mesh.

    Raises:
      ConfigError: the mesh leaves a process without devices.
    """
    present = {device.process_index for device in mesh.devices.flat}
    idle = sorted(set(range(jax.process_count())) - present)
    if idle:
        raise ConfigError(
            f"parallel: got {shown(mesh.shape)}, which leaves {name_processes(idle)} without "
            f"devices; expected sizes that make {jax.device_count()}, e.g. parallel.data=-1"
        )
    part = own_part(batch_sharding(mesh))
    if part == WHOLE:
        return part, functools.partial(place_batch, mesh=mesh)
    return part, lambda batch: place_own(batch, batch_shardings(batch, mesh), part)


def own_part(sharding: NamedSharding) -> Part:
    """Return the blocks of rows that lie on devices of this process.

    Args:
      sharding: layout of a batch; its first axis gives the number of blocks.
    """
    if sharding.is_fully_addressable:
        return WHOLE
    axes = sharding.spec[0] if len(sharding.spec) else None
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    count = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=np.int64))
    rows = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    places = rows.addressable_devices_indices_map((count,)).values()
    own = {block for place in places if place for block in range(*place[0].indices(count))}
    return Part(tuple(sorted(own)), count)


def place_own(
    batch: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding], part: Part
) -> dict[str, jax.Array]:
    """Make global arrays of the rows of every process's part.

    Args:
      batch: arrays whose first axis holds the rows of `part`.
      shardings: layouts of the global arrays by name; all split the rows as in `own_part`.
      part: what `own_part` gave.

    Raises:
      ConfigError: the rows do not divide by the blocks.
    """

    def place(name: str, local: np.ndarray) -> jax.Array:
        if len(local) % len(part.blocks):
            raise ConfigError(
                f"train.batch_size: {len(local)} rows of {name!r} on this process do not divide "
                f"by the {len(part.blocks)} blocks that its devices hold; expected a multiple"
            )
        shape = (len(local) // len(part.blocks) * part.of, *local.shape[1:])
        rows = part.rows(shape[0])

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # of devices that hold rows
            start, stop, _ = index[0].indices(shape[0])
            first = int(np.searchsorted(rows, start))
            return local[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback(shape, shardings[name], shard)

    return {name: place(name, np.asarray(leaf)) for name, leaf in batch.items()}
