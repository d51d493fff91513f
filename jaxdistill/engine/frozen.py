"""What a step reads and never changes: teachers by name, and the frozen part of the student.

A tree of parameters is split into two of the same form: where one has an array, the other has None,
which is no leaf. Where stacked layers `[L, ...]` are partly frozen, each tree holds some of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath

from jaxdistill.engine.objective import TEACHER
from jaxdistill.errors import ConfigError
from jaxdistill.types import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a step reads beside its state: not differentiated, not optimized, not saved.

    Attributes:
      teachers: parameters of every teacher by name; a single one is called `teacher`.
      student: the frozen part of the student, as `split_parameters` gives it; None where all of it
        is trained.
      projections: the frozen part of the trained maps, or None.
    """

    teachers: Mapping[str, Tree] = dataclasses.field(default_factory=dict)
    student: Tree = None
    projections: Tree = None

    def whole(self, params: Mapping[str, Tree]) -> dict[str, Tree]:
        """Return all parameters, `{"student": …, "projections": …}`, from the trained ones."""
        return {
            "student": merge_parameters(params["student"], self.student),
            "projections": merge_parameters(params["projections"], self.projections),
        }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrozenLayers:
    """The frozen layers of a stack, others of which are trained.

    Attributes:
      values: the frozen layers, `[L - K, ...]`.
      frozen: whether each of the `L` layers is frozen.
    """

    values: Tree
    frozen: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


def as_frozen(frozen: Tree) -> Frozen:
    """Return what a step was given as `Frozen`; anything else is the one teacher's parameters."""
    return frozen if isinstance(frozen, Frozen) else Frozen({TEACHER: frozen})


def split_parameters(
    params: Tree, patterns: Sequence[str], *, setting: str = "freeze"
) -> tuple[Tree, Tree]:
    """Split parameters into those that are trained and those that are frozen.

    Traceable; leaves may be shapes. Layers are named by their number, stacked or not: `kernel/0$`
    is the first layer's part of every `layers/…/kernel`.

    Args:
      params: any tree of arrays.
      patterns: regular expressions; a parameter whose path, such as
        `layers/attention/query/kernel`, matches one of them is frozen.
      setting: where the patterns come from, for errors.

    Returns:
      The trained and the frozen part, for `merge_parameters`. Without patterns, the parameters and
      None.

    Raises:
      ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    if not patterns:
        return params, None
    masks = frozen_masks(params, patterns, setting=setting)
    return jax.tree.map(_trained, masks, params), jax.tree.map(_frozen, masks, params)


def merge_parameters(trained: Tree, frozen: Tree) -> Tree:
    """Undo `split_parameters`: gradients flow to what is trained alone.

    Args:
      trained: the first part; its values may have changed since.
      frozen: the second; None returns the first as it is.
    """
    if frozen is None:
        return trained
    frozen = jax.lax.stop_gradient(frozen)

    def whole(ours: Tree, theirs: Tree) -> Tree:
        if ours is None:
            return theirs
        return _woven(ours, theirs) if isinstance(theirs, FrozenLayers) else ours

    return jax.tree.map(whole, trained, frozen, is_leaf=lambda node: node is None)


def frozen_masks(params: Tree, patterns: Sequence[str], *, setting: str = "freeze") -> Tree:
    """Return which parameters are frozen: bool `[]`, or `[L]` for stacked layers that differ.

    Raises:
      ConfigError: see `split_parameters`.
    """
    paths = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    unused = set(patterns)

    def mask(path: KeyPath, leaf: Tree) -> np.ndarray:
        found = []
        for names in _names(path, leaf):
            hits = {one for one in patterns if any(re.search(one, name) for name in names)}
            unused.difference_update(hits)
            found.append(bool(hits))
        return np.array(found if len(set(found)) > 1 else found[0])

    masks = jax.tree_util.tree_map_with_path(mask, params)
    for pattern in patterns:
        if pattern in unused:
            raise ConfigError(
                f"{setting}: the pattern {pattern!r} matches no parameter, "
                f"expected part of a path such as {path_name(paths[0][0])!r}"
            )
    # Maps between widths serve the objective alone: training only them moves no model.
    left = [
        one.all()
        for (path, _), one in zip(paths, jax.tree.leaves(masks), strict=True)
        if not path_name(path).startswith("projections/")
    ]
    if all(left):
        raise ConfigError(
            f"{setting}: the patterns {list(patterns)} match every parameter, which leaves "
            "nothing to train; drop some of them"
        )
    return masks


def path_name(path: KeyPath) -> str:
    """Return a parameter's path as `student/layers/attention/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_layer(path: KeyPath) -> bool:
    """Return whether a parameter belongs to a stack of layers, as one array or one by one."""
    return "/layers/" in f"/{path_name(path)}/"


def layer_numbers(path: KeyPath, leaf: Tree) -> np.ndarray:
    """Return a leaf's layer, or all of them where layers are stacked on its first axis."""
    if isinstance(path[-1], jax.tree_util.SequenceKey):
        return np.array(path[-1].idx)
    return np.arange(leaf.shape[0])


def _names(path: KeyPath, leaf: Tree) -> Iterator[tuple[str, ...]]:
    """Yield the names of a parameter, of each layer where layers are stacked."""
    name = path_name(path)
    if not is_layer(path) or not leaf.shape:
        yield (name,)
    elif isinstance(path[-1], jax.tree_util.SequenceKey):
        yield name, path_name(path[:-1])
    else:
        yield from ((name, f"{name}/{layer}") for layer in layer_numbers(path, leaf))


def _trained(mask: np.ndarray, leaf: Tree) -> Tree:
    if mask.ndim:
        return _layers(leaf, ~mask)
    return None if mask else leaf


def _frozen(mask: np.ndarray, leaf: Tree) -> Tree:
    if mask.ndim:
        return FrozenLayers(_layers(leaf, mask), tuple(mask.tolist()))
    return leaf if mask else None


def _layers(leaf: Tree, chosen: np.ndarray) -> Tree:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((int(chosen.sum()), *leaf.shape[1:]), leaf.dtype)
    return leaf[np.flatnonzero(chosen)]


def _woven(trained: Tree, frozen: FrozenLayers) -> Tree:
    """Lay the layers of both parts in their order, run by run: no gather, no scatter behind it."""
    pieces, taken = [], [0, 0]
    for theirs, run in groupby(frozen.frozen):
        count = len(list(run))
        source, start = (frozen.values if theirs else trained), taken[theirs]
        pieces.append(source[start : start + count])
        taken[theirs] += count
    return np.concatenate(pieces) if isinstance(trained, np.ndarray) else jnp.concatenate(pieces)
