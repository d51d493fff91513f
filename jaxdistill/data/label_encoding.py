"""Cells of labels to ids, scores or rows of 0 and 1, every bad one named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.data.label_cells import read_rows
from jaxdistill.data.label_names import MISSING, as_number
from jaxdistill.data.label_space import LabelSpace, Lookup, UnknownLabelError
from jaxdistill.data.reading.table import Cells, Table
from jaxdistill.errors import DataError

_FLAGS = {"true": 1.0, "false": 0.0}


def encode_classes(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    """Return the ids of a table's classes, int32 `[N]`; errors as for `encode_labels`."""
    values = table.columns[columns[0]]
    if space.form.flags is not None:
        return _one_hot(_vectors(values, table, space), table)
    ids = Lookup(space, table)
    cells = [read_cell(value, table, row) for row, value in enumerate(values)]
    return np.array([ids.of(cell, row) for row, cell in enumerate(cells)], np.int32)


def encode_sets(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    """Return 0 or 1 for each label of each row, float32 `[N, C]`; errors as for `encode_labels`."""
    if len(columns) > 1:
        return _flag_columns(table, columns, space)
    values = table.columns[columns[0]]
    if space.form.flags is not None:
        return _vectors(values, table, space)
    ids = Lookup(space, table)
    return _multilabel(read_rows(values, table, space.form), table, space, ids)


def encode_values(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    """Return a table's numbers, float32 `[N]`; errors as for `encode_labels`."""
    values = table.columns[columns[0]]
    return np.array([_score(value, table, row) for row, value in enumerate(values)], np.float32)


def read_cell(value: object, table: Table, row: int) -> int | float | str:
    """Return a cell's label as a number or a text.

    Raises:
      DataError: it holds none, or several.
    """
    if isinstance(value, list | tuple | np.ndarray) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = value.strip()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    missing = isinstance(value, str) and value.casefold() in MISSING
    if value is None or missing or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{table.at(row)}: got no label ({value!r}), expected one; drop the row")
    if isinstance(value, bool | int | float | str):
        return int(value) if isinstance(value, bool) else value
    raise DataError(
        f"{table.at(row)}: got label {value!r}, expected a name or an integer; set data.label to "
        "another column, or task to multilabel or regression"
    )


def read_cells(parts: Sequence[object], table: Table, row: int) -> list[int | float | str]:
    """Return the labels of a row.

    Raises:
      DataError: one occurs twice, or is none.
    """
    cells = [read_cell(part, table, row) for part in parts]
    if len(set(cells)) != len(cells):
        raise DataError(f"{table.at(row)}: got the labels {list(parts)[:10]}, expected each once")
    return cells


def _score(value: Any, table: Table, row: int) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{table.at(row)}: got label {value!r}, expected a number") from None
    if not math.isfinite(score):
        raise DataError(f"{table.at(row)}: got label {score}, expected a finite number")
    if abs(score) > float(np.finfo(np.float32).max):
        raise DataError(
            f"{table.at(row)}: got label {score}, expected a number of at most "
            f"{np.finfo(np.float32).max:.3g}, since labels are held as float32; scale them"
        )
    return score


def _vectors(values: Cells, table: Table, space: LabelSpace) -> np.ndarray:
    """Read rows of 0 and 1, and put their columns where the model has the labels."""
    width = space.form.flags
    if isinstance(values, np.ndarray) and values.ndim == 2:
        if values.shape[1] != space.count or not np.isin(values, (0, 1)).all():
            raise DataError(
                f"{table.source}: got labels of shape {values.shape}, expected [rows, "
                f"{space.count}] of 0 and 1"
            )
        encoded = values.astype(np.float32)
    else:
        rows = read_rows(values, table, space.form)
        encoded = np.zeros((len(rows), space.count), np.float32)
        for place, row in enumerate(rows):
            flags = [as_number(str(int(v)) if isinstance(v, bool) else str(v)) for v in row]
            if len(row) != width or len(row) != space.count or not set(flags) <= {0.0, 1.0}:
                raise DataError(
                    f"{table.at(place)}: got the labels {row[:10]}, expected 0 or 1 for each of "
                    f"{space.count} labels"
                )
            encoded[place] = flags
    if space.outputs is not None:
        moved = np.zeros_like(encoded)
        moved[:, list(space.outputs)] = encoded
        return moved
    return encoded


def _one_hot(vectors: np.ndarray, table: Table) -> np.ndarray:
    several = np.flatnonzero(vectors.sum(axis=1) != 1)
    if len(several):
        row = int(several[0])
        raise DataError(
            f"{table.at(row)}: got {int(vectors[row].sum())} classes in a row of 0 and 1, expected "
            "one; set task=multilabel for rows of several labels"
        )
    return vectors.argmax(axis=1).astype(np.int32)


def _multilabel(
    rows: Sequence[Sequence[object]], table: Table, space: LabelSpace, ids: Lookup
) -> np.ndarray:
    encoded = np.zeros((len(rows), space.count), np.float32)
    for row, parts in enumerate(rows):
        for cell in read_cells(parts, table, row):
            encoded[row, ids.of(cell, row)] = 1.0
    return encoded


def _flag_columns(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    encoded = np.zeros((len(table), space.count), np.float32)
    if len(columns) != space.count:
        raise UnknownLabelError(
            f"{table.source}: got columns of 0 and 1 for the labels {list(columns)}, expected one "
            f"for each of {list(space.names or columns)}"
        )
    ids = Lookup(dataclasses.replace(space, by_name=True), table)
    for name in columns:
        place = ids.of(name, 0)
        for row, value in enumerate(table.columns[name]):
            text = str(value).strip().casefold()
            score = _FLAGS[text] if text in _FLAGS else _score(value, table, row)
            if score not in (0.0, 1.0):
                raise DataError(f"{table.at(row)}: got {name}={value!r}, expected 0 or 1")
            encoded[row, place] = score
    return encoded
