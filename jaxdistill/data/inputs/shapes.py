"""Sizes of examples, and the batches that they give: of data, or where no data exist."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jaxdistill.data.inputs.inputs import Inputs
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.modalities.modality import Modality


def sizes_of(modality: Modality, inputs: Inputs) -> dict[str, int]:
    """Return the sizes of an example by name: the axes of its batch fields, and further ones.

    Raises:
      ConfigError: batches are not what the kind of input declares.
    """
    length = inputs.buckets(1, 1)[-1]
    batch = inputs.batch(np.zeros(1, np.int64), length)
    sizes: dict[str, int] = dict(inputs.sizes())
    where = f"modality {modality.name!r}: a batch"
    if batch.keys() != modality.fields.keys():
        raise ConfigError(
            f"{where} holds {list(batch)}, expected the fields {list(modality.fields)}"
        )
    for name, field in modality.fields.items():
        shape, dtype = batch[name].shape[1:], batch[name].dtype.name
        if len(shape) != len(field.axes) or dtype != field.dtype:
            raise ConfigError(
                f"{where} holds {name} of {dtype} and shape {(1, *shape)}, expected {field.dtype} "
                f"with the axes {('rows', *field.axes)}"
            )
        for axis, size in zip(field.axes, shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ConfigError(
                    f"{where} holds {name} with {axis}={size}, expected {sizes[axis]} as elsewhere"
                )
    return sizes


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
