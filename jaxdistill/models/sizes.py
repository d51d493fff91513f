"""How large parameters are."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdistill.types import Tree


def count_parameters(params: Tree) -> int:
    """Return the number of elements of a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def count_bytes(params: Tree) -> int:
    """Return the bytes of a pytree."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params))
