"""Train only the embedding rows that the data uses.

Most of a vocabulary never occurs in a task's data. Its embedding rows get no gradient, yet a dense
update reads and writes them and their moments at every step. Here the tables are cut to the rows
in use, the token ids are renumbered once, and the trained rows go back to their places at the end.
Rows in use are trained as before; the others keep their values (no weight decay reaches them).
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.types import Tree

AXIS = "vocab"


def used_ids(dataset: Dataset) -> np.ndarray | None:
    """Return the token ids of training and validation, ascending, int64; None without tokens."""
    inputs = [dataset.train.inputs, dataset.validation.inputs]
    parts = [np.unique(part.token_ids()) for part in inputs]
    if not any(map(len, parts)):
        return None
    # Models compare ids with the padding id: everything up to it keeps its number.
    kept = np.arange(max(part.pad_id for part in inputs) + 1)
    return np.unique(np.concatenate([*parts, kept])).astype(np.int64)


def renumber(dataset: Dataset, used: np.ndarray) -> Dataset:
    """Replace every token id by its place among `used`; training has no test split."""

    def renumbered(split: Split) -> Split:
        return dataclasses.replace(split, inputs=split.inputs.renumbered(used))

    train, validation = renumbered(dataset.train), renumbered(dataset.validation)
    return dataclasses.replace(dataset, train=train, validation=validation, test=None)


def cut(params: Tree, axes: Tree, used: np.ndarray) -> Tree:
    """Keep the rows `used` of every array with a vocabulary axis.

    Args:
      params: nested dict of arrays.
      axes: logical axis names of each array, in a tree as `params`.
      used: ascending ids.
    """

    def rows(leaf, names):
        return leaf.take(used, axis=names.index(AXIS)) if AXIS in names else leaf

    return jax.tree.map(rows, params, axes)


def put_back(whole: Tree, trained: Tree, axes: Tree, used: np.ndarray) -> Tree:
    """Return `trained`, with every cut array restored to its place in `whole`."""

    def restored(before, leaf, names):
        if AXIS not in names:
            return leaf
        after = np.array(before)
        place = [slice(None)] * after.ndim
        place[names.index(AXIS)] = used
        after[tuple(place)] = leaf
        return after

    return jax.tree.map(restored, whole, trained, axes)
