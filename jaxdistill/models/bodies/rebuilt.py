"""A model's module put together again around its parameters, inside a compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from flax import nnx

from jaxdistill.models.family import Options
from jaxdistill.types import Tree

Module = TypeVar("Module", bound=nnx.Module)


def module_of(
    kind: Callable[..., Module], shape: Hashable, options: Options, params: Tree
) -> Module:
    """Return `kind(shape, options, rngs)` with these parameters, of which none is drawn."""
    return nnx.merge(_graph(kind, shape, options), params)


@functools.lru_cache(maxsize=32)
def _graph(kind: Callable[..., nnx.Module], shape: Hashable, options: Options) -> Any:
    return nnx.split(nnx.eval_shape(lambda: kind(shape, options, nnx.Rngs(0))))[0]
