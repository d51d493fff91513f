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
    return Arrays({"features": values.astype(np.float32)})


def read_features(tables: Mapping[str, Table], source: Source) -> Found:
    """Take the vectors of every split.

    Raises:
      DataError: they are not finite numbers.
    """
    inputs = {}
    for part, table in tables.items():
        values = np.asarray(table.columns[source.columns[0]])
        if values.dtype.kind not in "uif" or not np.isfinite(values).all():
            raise DataError(f"{table.source}: got {values.dtype} features, expected finite numbers")
        inputs[part] = features_of(values)
    return Found(inputs)
