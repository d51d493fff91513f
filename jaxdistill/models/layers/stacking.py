"""Parameters of layers, stacked or unstacked.

Stacked, layers are scanned: the program does not grow with depth, but every step copies the slice
of each layer and gathers its gradient. Unstacked (a tuple of one array per layer in place of the
stacked array), they run one by one without those copies. Both layouts give the same results.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.types import Tree

AXIS = "layers"


def unrolls(unroll: bool | None) -> bool:
    """Return whether layers run one by one: as configured, by default on CPU."""
    return jax.default_backend() == "cpu" if unroll is None else unroll


def unstack(params: Tree, axes: Tree) -> Tree:
    """Replace every array with a leading `layers` axis by a tuple of its layers.

    Args:
      params: nested dict of arrays.
      axes: logical axis names of each array, in a tree like `params`.
    """

    def unstacked(leaf, names):
        return (
            tuple(leaf[index] for index in range(leaf.shape[0])) if names[:1] == (AXIS,) else leaf
        )

    return jax.tree.map(unstacked, params, axes)


def restack(params: Tree, axes: Tree) -> Tree:
    """Undo `unstack`."""

    def together(names, leaf):
        if names[:1] != (AXIS,):
            return leaf
        stack = np.stack if isinstance(leaf[0], np.ndarray) else jnp.stack
        return stack(leaf)

    # The axes come first: their tuples are leaves, and end the walk where layers are tuples.
    return jax.tree.map(together, axes, params, is_leaf=lambda node: isinstance(node, tuple))


def is_apart(params: Tree) -> bool:
    """Return whether a stacked module's parameters are in the layout that `unstack` gives."""
    leaves = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, tuple))
    return bool(leaves) and isinstance(leaves[0], tuple)


def layers_of(params: Tree) -> list[Tree]:
    """Return the parameters of each layer, from the layout that `unstack` gives."""
    leaves, structure = jax.tree.flatten(params, is_leaf=lambda node: isinstance(node, tuple))
    return [structure.unflatten(parts) for parts in zip(*leaves, strict=True)]
