"""The mesh of devices: axes `data`, `fsdp`, `sequence` and `tensor`, and what cannot work on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import AxisType, Mesh

from jaxdistill.errors import ConfigError

DATA, FSDP, SEQUENCE, TENSOR = "data", "fsdp", "sequence", "tensor"
# The last axis lies on neighbouring devices: it talks most.
AXES = (DATA, FSDP, SEQUENCE, TENSOR)
BATCH = (DATA, FSDP)


def make_mesh(
    data: int = -1,
    *,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Return a mesh with the axes `data, fsdp, sequence, tensor`, at most one of them -1.

    Args:
      data: parts of the batch, with a copy of the parameters each.
      fsdp: parts of the batch that also share the parameters and the optimizer's state.
      sequence: parts of each row.
      tensor: parts of heads, feed-forward channels and vocabulary.
      devices: which; all present by default. Without a -1 the first of them are taken.

    Raises:
      ConfigError: the axes need more devices than there are, or a -1 that they do not divide into.
    """
    return mesh_of({DATA: data, FSDP: fsdp, SEQUENCE: sequence, TENSOR: tensor}, devices)


def mesh_of(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Return `make_mesh` of sizes by name."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(sizes, len(devices))
    count = math.prod(sizes.values())
    return jax.make_mesh(
        tuple(sizes[name] for name in AXES),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices[:count],
    )


def mesh_sizes(sizes: Mapping[str, int], present: int) -> dict[str, int]:
    """Return the sizes with -1 replaced by what is left of `present` devices.

    Raises:
      ConfigError: they do not fit, with sizes that would.
    """
    open_axes = [name for name, size in sizes.items() if size == -1]
    wrong = {name: size for name, size in sizes.items() if size < 1 and size != -1}
    if wrong or len(open_axes) > 1:
        raise ConfigError(
            f"parallel: got {shown(sizes)}, expected positive sizes and at most one -1"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if not open_axes:
        if fixed > present:
            raise ConfigError(
                f"parallel: got {shown(sizes)}, {fixed} devices, but {present} are present; "
                f"expected at most {present}, e.g. parallel.data=-1 for all that are left"
            )
        return dict(sizes)
    if present % fixed:
        raise ConfigError(
            f"parallel: got {shown(sizes)}, of which {fixed} do not divide {present} devices; "
            f"expected a product that is one of {divisors(present)}"
        )
    return {**sizes, open_axes[0]: present // fixed}


def shown(sizes: Mapping[str, int]) -> str:
    """Write sizes as `data=2 fsdp=4`, without axes of size 1."""
    large = [f"{name}={size}" for name, size in sizes.items() if size != 1]
    return " ".join(large) or "one device"


def divisors(number: int) -> list[int]:
    """Return every whole number that divides `number`, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def batch_parts(mesh: Mesh) -> int:
    """Return over how many devices the rows of a batch are split."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


class Heads(Protocol):
    """How many heads of attention a model has, and of keys and values; None where it has none."""

    @property
    def heads(self) -> int | None: ...

    @property
    def key_heads(self) -> int | None: ...


class Sized(Protocol):
    """What says how large a model is: the config of its family."""

    @property
    def sizes(self) -> Heads: ...


def check_heads(who: str, config: Sized | None, parts: int) -> None:
    """Check that a model's heads divide over the `parts` of the `tensor` axis.

    Args:
      who: `teacher` or `student`.
      config: config of the model's family; None for a model made by hand.
      parts: size of the axis.

    Raises:
      ConfigError: they do not; with the sizes that would.
    """
    if config is None:
        return
    sizes = config.sizes
    for what, heads in (
        ("attention heads", sizes.heads),
        ("heads of keys and values", sizes.key_heads),
    ):
        if heads is not None and heads % parts:
            raise ConfigError(
                f"parallel.tensor: got {parts}, but the {who} has {heads} {what}; "
                f"expected one of {divisors(heads)}"
            )


def check_length(length: int, parts: int) -> None:
    """Check that rows of `length` tokens divide over the `parts` of the `sequence` axis.

    Raises:
      ConfigError: they do not; with a length that would.
    """
    if length % parts:
        lower = length // parts * parts
        raise ConfigError(
            f"parallel.sequence: got {parts}, which does not divide rows of {length} tokens; "
            f"expected one of {divisors(length)}, or data.max_length={lower or parts}"
        )


def check_rows(what: str, rows: int, mesh: Mesh, *, setting: str = "train.batch_size") -> None:
    """Check that the rows of a batch, of which `setting` decides, divide over `data` and `fsdp`.

    Raises:
      ConfigError: they do not; with numbers that would.
    """
    if rows % batch_parts(mesh):
        raise ConfigError(rows_fault(what, rows, batch_parts(mesh), setting))


def rows_fault(what: str, rows: int, parts: int, setting: str = "train.batch_size") -> str:
    """Say that the rows of a batch do not divide over that many devices, and which would."""
    lower = rows // parts * parts
    near = f"{lower} or {lower + parts}" if lower else f"{parts}"
    return (
        f"{setting}: {rows} rows of {what!r} do not divide over {parts} devices, "
        f"expected a multiple of {parts}, e.g. {near}"
    )
