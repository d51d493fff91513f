"""Batches of a kind of input without its data: shapes, or one example that stands for any."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jaxdistill.errors import DataError
from jaxdistill.modalities.modality import Modality


def batch_shapes(
    modality: Modality, rows: int, sizes: Mapping[str, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of a batch's inputs, `[rows, ...]` each.

    Args:
      modality: the kind of input.
      rows: examples of the batch.
      sizes: the sizes of an example by name.

    Raises:
      DataError: a size is not known.
    """
    found = {}
    for name, field in modality.fields.items():
        unknown = [axis for axis in field.axes if axis not in sizes]
        if unknown:
            raise DataError(
                f"data: got no {unknown[0]!r} of {modality.plural}, expected it to be known; it is "
                f"a size of their field {name!r}, which only the data say"
            )
        shape = (rows, *(sizes[axis] for axis in field.axes))
        found[name] = jax.ShapeDtypeStruct(shape, np.dtype(field.dtype))
    return found


def example_batch(modality: Modality, rows: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return a batch's inputs of those shapes, each full of its field's `fill`."""
    fills = {name: field.fill for name, field in modality.fields.items()}
    return {
        name: np.full(leaf.shape, fills[name], leaf.dtype)
        for name, leaf in batch_shapes(modality, rows, sizes).items()
    }
