"""Labels as they were written to ids, scores or 0/1 vectors, every bad one named."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.config_terms import Task
from jaxdistill.data.table import Table
from jaxdistill.errors import DataError, did_you_mean

_log = logging.getLogger("jaxdistill")
_INTEGER = re.compile(r"[+-]?\d+(\.0+)?")
_GENERIC = re.compile(r"LABEL_\d+")


class UnknownLabelError(DataError):
    """A label that is none of those known."""


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """What labels may be.

    Attributes:
      task: the kind of label.
      count: classes, or 1 for regression.
      names: their names in the order of ids, or None where the data has bare ids.
      source_names: names of the ids as the source counts them, where that order may differ.
    """

    task: Task
    count: int
    names: tuple[str, ...] | None
    source_names: tuple[str, ...] | None = None


def label_space(
    table: Table,
    columns: Sequence[str],
    *,
    task: Task,
    labels: Sequence[str] | None,
    num_labels: int | None,
) -> LabelSpace:
    """Find the classes: `labels` in that order, else the source's names, else those that occur.

    Names that only count (`LABEL_0`, …) are no names. Names that are found in the data are sorted;
    where all of them are integers they are ids.

    Raises:
      DataError: `labels` and `num_labels` disagree, or the data has another number of classes.
    """
    if task == "regression":
        return LabelSpace(task, 1, None)
    if labels is not None and is_generic(labels):
        num_labels, labels = num_labels or len(labels), None
    if labels is not None:
        names = tuple(labels)
        if len(set(names)) != len(names):
            raise DataError(f"data.labels: got {list(names)}, expected each name once")
        if num_labels is not None and num_labels != len(names):
            raise DataError(
                f"data.labels: got {len(names)} names, expected {num_labels}, the model's classes"
            )
        return LabelSpace(task, len(names), names, table.names.get(columns[0]))
    known = table.names.get(columns[0]) or (tuple(columns) if len(columns) > 1 else None)
    values = table.columns[columns[0]]
    if known is None and isinstance(values, np.ndarray) and values.ndim == 2:
        count = values.shape[1]
    elif known is None:
        known, count = _occurring(table, columns[0], task, num_labels)
    else:
        count = len(known)
    if num_labels is not None and count != num_labels:
        raise DataError(
            f"data.label: {table.source} has {count} classes {list(known or ())[:10]}, expected "
            f"{num_labels} as the model has; give its names as data.labels, or use another model"
        )
    return LabelSpace(task, count, known, table.names.get(columns[0]))


def is_generic(names: Sequence[str]) -> bool:
    """Say whether names only count: `LABEL_0`, `LABEL_1`, … as in a checkpoint without names."""
    return all(_GENERIC.fullmatch(name) for name in names)


def encode_labels(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    """Turn a table's labels into numbers.

    Returns:
      int32 [N] ids, float32 [N] scores (regression) or float32 [N, C] of 0 and 1 (multi-label).

    Raises:
      DataError: naming the row, what it holds and what was expected.
    """
    if len(columns) > 1:
        return _flags(table, columns, space)
    name = columns[0]
    values = table.columns[name]
    if space.task == "regression":
        return np.array([_score(value, table, row) for row, value in enumerate(values)], np.float32)
    if space.task == "multilabel":
        return _multilabel(table, name, space)
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 else list(values)
    cells = [_cell(value, table, row) for row, value in enumerate(values)]
    ids = _Ids(space, table, by_name=_by_name(cells, space))
    return np.array([ids.of(cell, row) for row, cell in enumerate(cells)], np.int32)


class _Ids:
    """Looks up ids of one table's cells."""

    def __init__(self, space: LabelSpace, table: Table, *, by_name: bool) -> None:
        self._space, self._table, self._by_name = space, table, by_name
        self._known = {name: index for index, name in enumerate(space.names or ())}
        folded = [name.casefold() for name in space.names or ()]
        if len(set(folded)) == len(folded):
            self._known = {**dict(zip(folded, range(len(folded)), strict=True)), **self._known}
        source = space.source_names
        differs = source is not None and space.names is not None and source != space.names
        same = differs and {name.casefold() for name in source or ()} == set(folded)
        if differs and not same and not by_name:
            _log.warning(
                "%s: its label names %s are not %s; ids are taken as they are",
                table.source,
                list(source or ())[:10],
                list(space.names or ())[:10],
            )
        self._source = source if same else None

    def of(self, cell: int | str, row: int) -> int:
        space = self._space
        if not self._by_name and isinstance(cell, str) and _INTEGER.fullmatch(cell):
            cell = int(float(cell))
        if not self._by_name and isinstance(cell, int):
            if not 0 <= cell < space.count:
                hint = "; -1 marks rows without labels, use another split" if cell == -1 else ""
                raise UnknownLabelError(
                    f"{self._table.at(row)}: got label {cell}, "
                    f"expected 0 to {space.count - 1}{hint}"
                )
            return cell if self._source is None else self.of(self._source[cell], row)
        name = str(cell)
        found = self._known.get(name, self._known.get(name.casefold()))
        if found is None:
            names = list(space.names or range(space.count))
            raise UnknownLabelError(
                f"{self._table.at(row)}: got label {name!r}, expected one of {names[:20]}."
                f"{did_you_mean(name, [str(known) for known in names])}"
            )
        return found


def _by_name(cells: Sequence[int | str], space: LabelSpace) -> bool:
    """Say whether integers are names: only where every one of them is among the names."""
    return space.names is not None and {str(cell) for cell in cells} <= set(space.names)


def _occurring(
    table: Table, column: str, task: Task, num_labels: int | None
) -> tuple[tuple[str, ...] | None, int]:
    cells: set[int | str] = set()
    for row, value in enumerate(table.columns[column]):
        parts = _parts(value, table, row) if task == "multilabel" else [_cell(value, table, row)]
        cells.update(parts)
    if all(isinstance(cell, int) or _INTEGER.fullmatch(cell) for cell in cells):
        ids = sorted({int(float(cell)) for cell in cells})
        count = num_labels or (max(ids, default=0) + 1)
        unseen = [index for index in range(min(count, 1000)) if index not in set(ids)]
        if unseen:
            _log.warning("%s: no row has a label of %s", table.source, unseen[:10])
        return None, max(count, 1)
    names = tuple(sorted(str(cell) for cell in cells))
    return names, len(names)


def _cell(value: Any, table: Table, row: int) -> int | str:
    if isinstance(value, str):
        value = value.strip()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{table.at(row)}: got no label ({value!r}), expected one; drop the row")
    if isinstance(value, bool | int | str):
        return int(value) if isinstance(value, bool) else value
    raise DataError(
        f"{table.at(row)}: got label {value!r}, expected a name or an integer; set data.label to "
        "another column, or task to multilabel or regression"
    )


def _score(value: Any, table: Table, row: int) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{table.at(row)}: got label {value!r}, expected a number") from None
    if not math.isfinite(score):
        raise DataError(f"{table.at(row)}: got label {score}, expected a finite number")
    return score


def _parts(value: Any, table: Table, row: int) -> list[int | str]:
    """The labels of one row: a list, or a cell of names or ids between commas."""
    if value is None:
        raise DataError(f"{table.at(row)}: got no labels (None), expected a list; it may be empty")
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    parts = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    cells = [_cell(part, table, row) for part in parts]
    if len(set(cells)) != len(cells):
        raise DataError(
            f"{table.at(row)}: got the labels {parts[:10]}, expected each once; a row of 0 and 1 "
            "belongs in one column per label"
        )
    return cells


def _multilabel(table: Table, column: str, space: LabelSpace) -> np.ndarray:
    values = table.columns[column]
    if isinstance(values, np.ndarray) and values.ndim == 2:
        if values.shape[1] != space.count or not np.isin(values, (0, 1)).all():
            raise DataError(
                f"{table.source}: got labels of shape {values.shape}, expected [rows, "
                f"{space.count}] of 0 and 1"
            )
        return values.astype(np.float32)
    rows = [_parts(value, table, row) for row, value in enumerate(values)]
    ids = _Ids(space, table, by_name=_by_name([cell for cells in rows for cell in cells], space))
    encoded = np.zeros((len(rows), space.count), np.float32)
    for row, cells in enumerate(rows):
        for cell in cells:
            encoded[row, ids.of(cell, row)] = 1.0
    return encoded


def _flags(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    encoded = np.zeros((len(table), space.count), np.float32)
    order = {name: index for index, name in enumerate(space.names or columns)}
    if set(columns) != set(order):
        raise UnknownLabelError(
            f"{table.source}: got columns of 0 and 1 for the labels {list(columns)}, expected one "
            f"for each of {list(order)}"
        )
    for name in columns:
        for row, value in enumerate(table.columns[name]):
            score = _score(value, table, row)
            if score not in (0.0, 1.0):
                raise DataError(f"{table.at(row)}: got {name}={value!r}, expected 0 or 1")
            encoded[row, order[name]] = score
    return encoded
