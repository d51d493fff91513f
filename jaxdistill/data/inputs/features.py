"""Vectors of numbers, taken as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxdistill.data.inputs.inputs import Arrays
from jaxdistill.data.inputs.reading import Found, Source
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError


def features_of(values: np.ndarray) -> Arrays:
    """Return vectors `[N, D]` as inputs with the batch field `features`, float32 [B, D]."""
    with np.errstate(over="ignore"):  # what is beyond float32 is looked for by who reads files
        return Arrays({"features": values.astype(np.float32)})


def read_features(tables: Mapping[str, Table], source: Source) -> Found:
    """Take the vectors of every split.

    Raises:
      DataError: they are no numbers, or not finite ones in float32.
    """
    inputs = {}
    for part, table in tables.items():
        name = source.columns[0]
        values = np.asarray(table.columns[name])
        if values.dtype.kind not in "uif":
            raise DataError(f"{table.source}: got {values.dtype} {name}, expected finite numbers")
        inputs[part] = _checked(values, table, name)
    return Found(inputs)


def _checked(values: np.ndarray, table: Table, name: str) -> Arrays:
    """Return vectors as inputs that are finite after their cast, too."""
    found = features_of(values)
    broken = np.argwhere(~np.isfinite(found.arrays["features"]))
    if len(broken):
        row, column = broken[0].tolist()
        raise DataError(
            f"{table.at(row)}: got {values[row, column]} as number {column + 1} of {name}, "
            f"expected finite numbers of at most {np.finfo(np.float32).max:.3g}, since they "
            "are held as float32; correct or scale them"
        )
    return found
