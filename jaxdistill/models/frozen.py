"""How a frozen model keeps its parameters: compute type or int8, on the device or the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdistill.models.registry import Model
from jaxdistill.parallel.sharding import to_device
from jaxdistill.types import Tree

Returned = TypeVar("Returned")
Storage = Literal["dtype", "int8"]
_ROUNDED = ("kernel", "table")  # What layers round to their compute type in any case.
_LAYERS = "layers"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A kernel of bytes that becomes a kernel of floats where a layer casts it.

    Attributes:
      values: int8 `[..., in, out]`.
      scale: float32 `[..., 1, out]`, the largest magnitude of each output over 127.
    """

    values: jax.Array
    scale: jax.Array

    @classmethod
    def of(cls, kernel: jax.Array) -> Int8:
        """Round `[..., in, out]` to the nearest of 255 levels of each output."""
        largest = jnp.abs(kernel).max(-2, keepdims=True).astype(jnp.float32)
        scale = jnp.where(largest == 0, 1.0, largest / 127.0)
        return cls(jnp.round(kernel / scale).astype(jnp.int8), scale)

    def __getitem__(self, index: Any) -> Int8:
        return Int8(self.values[index], self.scale[index])

    def astype(self, dtype: DTypeLike) -> jax.Array:
        """Return the kernel in a float type."""
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


def keep_frozen(model: Model, storage: Storage = "dtype") -> Model:
    """Return a frozen model whose kernels and tables take less memory.

    In its compute type they cost no precision: layers round them to it in any case. As int8, the
    kernels of its layers are rounded to 255 levels for each output (as in LLM.int8(), Dettmers et
    al. 2022, section 2.1, without its outliers), and every layer is cast when its turn comes.
    """
    dtype = jnp.dtype("float32" if model.options is None else model.options.dtype)

    def kept(path: jax.tree_util.KeyPath, leaf: Tree) -> Tree:
        names = [getattr(part, "key", None) for part in path]
        if storage == "int8" and names[0] == _LAYERS and "kernel" in names:
            return _applied(Int8.of, leaf)
        if dtype != jnp.float32 and any(name in _ROUNDED for name in names):
            return _applied(lambda array: array.astype(dtype), leaf)
        return leaf

    return dataclasses.replace(model, params=jax.tree.map_with_path(kept, model.params))


def called_from_host(apply: Callable[..., Returned]) -> Callable[..., Returned]:
    """Let a model's parameters lie in the host's memory: every layer is fetched for its turn."""

    def fetching(params: Tree, batch: Mapping[str, jax.Array], **options: Any) -> Returned:
        near = {name: part if name == _LAYERS else to_device(part) for name, part in params.items()}
        return apply(near, batch, **options)

    return fetching


def _applied(function: Callable[[jax.Array], Tree], leaf: Tree) -> Tree:
    """Apply a function of an array to one, or to the shape of one."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(function, leaf)
    return function(leaf)
