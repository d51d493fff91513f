"""Which part of every array a device holds: one table from logical axes to the axes of the mesh.

`embed, heads, mlp, vocab, layers` are the logical axes of parameters; `rows` and `length` those of
activations. A parameter is split by the table over `tensor` and, along `embed` where that divides,
over `fsdp`; one without `embed` along its longest axis that divides. What does not divide stays
whole.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdistill.parallel.mesh import BATCH, DATA, FSDP, SEQUENCE, TENSOR
from jaxdistill.types import Tree

Axes = tuple[str | None, ...]
Returned = TypeVar("Returned")

PARAMETERS: Mapping[str, str] = {"embed": FSDP, "heads": TENSOR, "mlp": TENSOR, "vocab": TENSOR}
ACTIVATIONS: Mapping[str, str | tuple[str, ...]] = {
    "rows": BATCH,
    "length": SEQUENCE,
    "heads": TENSOR,
    "mlp": TENSOR,
    "vocab": TENSOR,
}
_STACK = "layers"


def spec_of(
    axes: Axes, shape: tuple[int, ...], mesh: Mesh, *, share: tuple[str, ...] = (FSDP,)
) -> PartitionSpec:
    """Return how one parameter is split.

    Args:
      axes: logical axes of the array, None for one without a name.
      shape: sizes, as many.
      mesh: with the axes of `mesh.make_mesh`.
      share: mesh axes that take the part of `fsdp`; none keeps whole copies along it.
    """
    split: list[tuple[str, ...]] = [() for _ in shape]

    def divides(index: int, over: tuple[str, ...]) -> bool:
        return shape[index] % math.prod(mesh.shape[name] for name in split[index] + over) == 0

    for index, name in enumerate(axes):
        along = PARAMETERS.get(name or "")
        if along == TENSOR and mesh.shape[TENSOR] > 1 and divides(index, (TENSOR,)):
            split[index] = (TENSOR,)
    share = tuple(name for name in share if mesh.shape[name] > 1)
    candidates = [i for i, name in enumerate(axes) if name != _STACK and divides(i, share)]
    if share and candidates:
        named = [i for i in candidates if PARAMETERS.get(axes[i] or "") == FSDP]
        longest = max(candidates, key=lambda i: shape[i])
        chosen = named[0] if named else longest
        split[chosen] = split[chosen] + share
    return PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in split))


def parameter_shardings(
    params: Tree, axes: Tree, mesh: Mesh, *, share: tuple[str, ...] = (FSDP,)
) -> Tree:
    """Return the sharding of every parameter of a model.

    Args:
      params: nested dict of arrays or their shapes; layers may be unstacked, as tuples.
      axes: logical axes in a tree as `params`; None for a model without names.
      mesh: the devices.
      share: mesh axes that split what no rule splits, see `spec_of`.
    """

    def of(names: Axes, leaf: Tree) -> NamedSharding:
        return NamedSharding(mesh, spec_of(names, leaf.shape, mesh, share=share))

    def of_named(names: Axes, node: Tree) -> Tree:
        if isinstance(node, tuple):
            return tuple(of_named(names[1:], part) for part in node)
        # A parameter kept as several arrays has the same axes in each.
        return jax.tree.map(lambda leaf: of(names, leaf), node)

    if axes is None:
        return jax.tree.map(lambda leaf: of((None,) * len(leaf.shape), leaf), params)
    # The axes come first: their tuples of names are leaves, and end the walk where layers are.
    return jax.tree.map(of_named, axes, params, is_leaf=lambda node: isinstance(node, tuple))


def state_shardings(state: Tree, axes: Tree, mesh: Mesh, *, share_params: bool = True) -> Tree:
    """Return the sharding of every array of a training state: the optimizer's as its parameter's.

    Args:
      state: a `TrainState`, or its shapes.
      axes: logical axes of the student's parameters.
      mesh: the devices.
      share_params: whether `fsdp` splits parameters, too (ZeRO-3), or the optimizer's state and
        the averages only (ZeRO-1; Rajbhandari et al. 2020).
    """

    def of(share: tuple[str, ...]) -> dict[str, Tree]:
        return {
            "student": parameter_shardings(state.params["student"], axes, mesh, share=share),
            "projections": parameter_shardings(
                state.params["projections"], None, mesh, share=share
            ),
        }

    shared = of((FSDP,))
    by_path = {
        path: (sharding, leaf.shape)
        for (path, sharding), leaf in zip(
            jax.tree.leaves_with_path(shared), jax.tree.leaves(state.params), strict=True
        )
    }
    whole = replicated(mesh)

    def as_parameter(path: jax.tree_util.KeyPath, leaf: Tree) -> NamedSharding:
        # An optimizer keeps a parameter's path behind names of its fields; what it keeps in another
        # shape, such as factored moments, stays whole.
        for start in range(len(path)):
            sharding, shape = by_path.get(path[start:], (whole, None))
            if shape == leaf.shape:
                return sharding
        return whole

    return dataclasses.replace(
        state,
        step=whole,
        params=shared if share_params else of(()),
        opt_state=jax.tree.map_with_path(as_parameter, state.opt_state),
        rng=whole,
        model_state=jax.tree.map(lambda _: whole, state.model_state),
        ema=None if state.ema is None else shared,
        method_state=jax.tree.map(lambda _: whole, state.method_state),
    )


def on_host(shardings: Tree) -> Tree:
    """Return the same shardings in the memory of the hosts."""
    return jax.tree.map(lambda one: one.with_memory_kind("pinned_host"), shardings)


def to_device(tree: Tree) -> Tree:
    """Bring what lies in a host's memory to the device, inside a program."""

    def near(leaf: Tree) -> Tree:
        far = jax.typeof(leaf).memory_space == jax.memory.Space.Host
        return jax.device_put(leaf, jax.memory.Space.Device) if far else leaf

    return jax.tree.map(near, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shardings(batch: Mapping[str, Tree], mesh: Mesh) -> dict[str, NamedSharding]:
    """Return the sharding of every array of a batch: rows, and the tokens of rows `[B, T]`."""
    ids = batch.get("input_ids")
    tokens = PartitionSpec(BATCH, SEQUENCE)
    return {
        name: NamedSharding(mesh, tokens)
        if ids is not None and leaf.shape[:2] == ids.shape
        else batch_sharding(mesh)
        for name, leaf in batch.items()
    }


def place(tree: Tree, shardings: Tree) -> Tree:
    """Lay arrays that every process has whole out over the devices of all processes."""

    def one(leaf: Tree, sharding: NamedSharding) -> jax.Array:
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # NumPy has no keys: what a key is made of is placed, and made a key again.
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf)
            return jax.random.wrap_key_data(one(data, sharding), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: one(leaf, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def fetch(tree: Tree) -> Tree:
    """Return whole host arrays; those that other processes hold a part of are gathered."""

    def whole(leaf: Tree) -> Tree:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and not leaf.is_fully_addressable:
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            leaf = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
        # One by one: whole copies of all would not fit where their parts do.
        return jax.device_get(leaf)

    return jax.tree.map(whole, tree)


_GATHERED = "gathered"
_laid_out: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)
_few: contextvars.ContextVar[bool] = contextvars.ContextVar("few_tokens", default=False)


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Let `constrain` and `gather` mean this mesh, while a step is traced."""
    token = _laid_out.set(mesh)
    try:
        yield
    finally:
        _laid_out.reset(token)


@contextlib.contextmanager
def few_tokens() -> Iterator[None]:
    """Let parameters stay where they lie and activations move, while a step is traced.

    For a step of so few tokens that these are the smaller: a product takes its input split as the
    rows of its parameter are, and sums what it gives (Pope et al. 2022, arXiv 2211.05102, section
    3.2.2). Rows of texts are split over `data` only, but within attention.
    """
    token = _few.set(True)
    try:
        yield
    finally:
        _few.reset(token)


def mesh_of_step() -> Mesh | None:
    """Return the mesh of the step that is traced, None on one device or outside of any."""
    mesh = _laid_out.get()
    return None if mesh is None or mesh.size == 1 else mesh


def platform() -> str:
    """Return what the step that is traced will run on: `cpu`, `gpu` or `tpu`."""
    mesh = _laid_out.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def is_known() -> bool:
    """Return whether it is known how the step that is traced lies on the devices."""
    return _laid_out.get() is not None or jax.device_count() == 1


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Say how an activation is split, by the logical names of its axes; outside a mesh, nothing.

    An axis that does not divide stays whole.
    """
    mesh = mesh_of_step()
    if mesh is None or x.ndim != len(names):
        return x
    table = ACTIVATIONS
    if _few.get() and "embed" in names:
        table = {**ACTIVATIONS, "rows": DATA, "embed": FSDP}
    spec = []
    for size, name in zip(x.shape, names, strict=True):
        over = table.get(name or "")
        axes = (over,) if isinstance(over, str) else over or ()
        spec.append(over if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def gather(value: jax.Array, axes: Axes) -> jax.Array:
    """Return a parameter as a layer computes with it: whole along `fsdp`, split over `tensor`.

    Its gradient goes back to where the parameter lies, so that what crosses the mesh is one gather
    and one reduce-scatter of the parameter, in the dtype of `value`, never activations. Within
    `few_tokens` it is returned as it lies.
    """
    mesh = mesh_of_step()
    if mesh is None or _few.get():
        return value
    kept = NamedSharding(mesh, spec_of(axes, value.shape, mesh))
    used = NamedSharding(mesh, spec_of(axes, value.shape, mesh, share=()))
    return checkpoint_name(_gathered(value, kept, used), _GATHERED)


def product(x: jax.Array, kernel: jax.Array, axes: Axes, **options: Any) -> jax.Array:
    """Return `x @ kernel` of `[B, ..., in]` and a parameter `[in, out]`.

    Args:
      axes: logical axes of the parameter.
      options: options of `jnp.matmul`.
    """
    mesh = mesh_of_step()
    if mesh is None or not _few.get():
        return jnp.matmul(x, gather(kernel, axes), **options)
    inputs, outputs = spec = spec_of(axes, kernel.shape, mesh)
    # Else the compiler may keep one that is whole for another product.
    kernel = jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, spec))

    def split(x: jax.Array, last: str | tuple[str, ...] | None) -> jax.Array:
        rows = DATA if x.shape[0] % mesh.shape[DATA] == 0 else None
        spec = PartitionSpec(rows, *(None,) * (x.ndim - 2), last)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return split(jnp.matmul(split(x, inputs), kernel, **options), outputs)


def recompute_gathers(body: Callable[..., Returned]) -> Callable[..., Returned]:
    """Let the backward pass of a layer gather its parameters again instead of keeping them whole.

    Everything else that it needs is kept. Where no parameters are shared, nothing changes.
    """
    mesh = mesh_of_step()
    if mesh is None or mesh.shape[FSDP] == 1:
        return body
    policy = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)
    return jax.checkpoint(body, prevent_cse=False, policy=policy)


def _gathered(value: jax.Array, kept: NamedSharding, used: NamedSharding) -> jax.Array:
    @jax.custom_vjp
    def whole(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, used)

    def forward(x: jax.Array) -> tuple[jax.Array, None]:
        return whole(x), None

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.with_sharding_constraint(gradient, kept),)

    whole.defvjp(forward, backward)
    return whole(value)
