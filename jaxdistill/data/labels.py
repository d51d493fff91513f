"""Labels as they were written to ids, scores or 0/1 vectors, every bad one named."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.config.base import Task
from jaxdistill.data.label_cells import CellForm, find_form, read_rows
from jaxdistill.data.label_names import (
    MISSING,
    agree_on_names,
    as_number,
    is_generic,
    is_integer,
    names_of_ids,
    refuse_scores,
)
from jaxdistill.data.label_space import LabelSpace, Lookup, UnknownLabelError
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")
_FLAGS = {"true": 1.0, "false": 0.0}
_LISTS = (list, tuple, set, frozenset, dict, np.ndarray)


def label_space(
    table: Table,
    columns: Sequence[str],
    *,
    task: Task,
    labels: Sequence[str] | None,
    num_labels: int | None,
    id_names: Sequence[str] | None = None,
    outputs: int | None = None,
) -> LabelSpace:
    """Find the classes: `labels` in that order, else the source's names, else those that occur.

    Names that only count (`LABEL_0`, …) are no names. Names that are found in the data are sorted.
    Whole numbers are ids where they are 0, 1, … without a gap, and else names (codes).

    Args:
      table: the training data.
      columns: of labels; several hold 0 and 1 each.
      task: the kind of label.
      labels: names in the order of the model's outputs.
      num_labels: their number.
      id_names: what the data calls its ids, in their order; the source's own names where None.
      outputs: those of a model that is given, whose names are not known: ids below are ids.

    Raises:
      DataError: names and numbers disagree, or the column holds no labels of this task.
    """
    columns = tuple(columns)
    if task == "regression":
        return LabelSpace(task, 1, None, columns=columns)
    if labels is not None and is_generic(labels) and id_names is None:
        num_labels, labels = num_labels or len(labels), None
    known = _known_names(table, columns, labels)
    count = num_labels if known is None else len(known)
    form, rows = CellForm(), [[]]
    if len(columns) == 1:
        form, rows = _read(table, columns[0], task, known, count)
    if labels is not None:
        if len(set(labels)) != len(labels):
            raise DataError(f"data.labels: got {list(labels)}, expected each name once")
        if num_labels is not None and num_labels != len(labels):
            raise DataError(
                f"data.labels: got {len(labels)} names, expected {num_labels}, the model's classes"
            )
    by_name = False
    if known is not None:
        count = len(known)
        by_name = form.flags is None and _are_names(rows, id_names or known)
    elif form.flags is not None:
        count = form.flags
    else:
        known, count = _occurring(table, rows, task, num_labels, outputs)
        by_name = known is not None
    if num_labels is not None and count != num_labels:
        raise DataError(
            f"data.label: {table.source} has {count} classes {list(known or ())[:10]}, expected "
            f"{num_labels} as the model has; give its names as data.labels, or use another model"
        )
    source, order = agree_on_names(table, columns[0], known, id_names)
    numbers = len(columns) == 1 and all(is_integer(cell) for row in rows for cell in row)
    return LabelSpace(
        task, count, known, source, order, by_name, form, columns, numbers and not by_name
    )


def encode_labels(table: Table, columns: Sequence[str], space: LabelSpace) -> np.ndarray:
    """Turn a table's labels into numbers.

    Returns:
      int32 [N] ids, float32 [N] scores (regression) or float32 [N, C] of 0 and 1 (multi-label).

    Raises:
      DataError: naming the row, what it holds and what was expected.
    """
    if len(columns) > 1:
        return _flag_columns(table, columns, space)
    name = columns[0]
    values = table.columns[name]
    if space.task == "regression":
        return np.array([_score(value, table, row) for row, value in enumerate(values)], np.float32)
    if space.form.flags is not None:
        vectors = _vectors(values, table, space)
        return vectors if space.task == "multilabel" else _one_hot(vectors, table)
    ids = Lookup(space, table)
    if space.task == "multilabel":
        return _multilabel(read_rows(values, table, space.form), table, space, ids)
    cells = [_cell(value, table, row) for row, value in enumerate(values)]
    return np.array([ids.of(cell, row) for row, cell in enumerate(cells)], np.int32)


def _known_names(
    table: Table, columns: Sequence[str], labels: Sequence[str] | None
) -> tuple[str, ...] | None:
    if labels is not None:
        return tuple(labels)
    return table.names.get(columns[0]) or (tuple(columns) if len(columns) > 1 else None)


def _read(
    table: Table,
    column: str,
    task: Task,
    names: tuple[str, ...] | None,
    count: int | None,
) -> tuple[CellForm, list[list[Any]]]:
    """Find out how the column is written, and read its cells unless they hold 0 and 1."""
    values = table.columns[column]
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return CellForm(flags=values.shape[1]), []
    if task == "classification" and not _holds_lists(values, names or ()):
        cells = [[_cell(value, table, row)] for row, value in enumerate(values)]
        return CellForm(), cells
    form = find_form(values, table, names=names, count=count)
    if form.flags is not None:
        return form, []
    if task == "classification":
        raise DataError(
            f"{table.at(0)}: got label {values[0]!r}, expected a name or an integer; set "
            "task=multilabel for rows of several labels, or data.label to another column"
        )
    rows = read_rows(values, table, form)
    return form, [_cells(parts, table, row) for row, parts in enumerate(rows)]


def _holds_lists(values: Sequence[Any] | np.ndarray, names: Sequence[str]) -> bool:
    """Say whether cells hold lists; those of one label each are as good as the label."""
    if isinstance(values, np.ndarray):
        return values.ndim > 1
    lists = [value for value in values if isinstance(value, _LISTS)]
    if lists:
        return any(len(value) != 1 or isinstance(value, dict) for value in lists)
    texts = {value.strip() for value in values if isinstance(value, str)} - set(names)
    # Parentheses and braces are also seen around names.
    return bool(texts) and all(text.startswith("[") and text.endswith("]") for text in texts)


def _are_names(rows: Sequence[Sequence[int | float | str]], names: Sequence[str]) -> bool:
    """Say whether numbers are names: only where every one of them is among the names."""
    found = {cell for row in rows for cell in row}
    if not found:
        return False
    if {str(cell) for cell in found} <= set(names):
        return True
    numbers = [as_number(name) for name in names]
    if None in numbers or len(set(numbers)) < len(numbers):
        return False
    return {as_number(str(cell)) for cell in found} <= set(numbers)


def _occurring(
    table: Table,
    rows: Sequence[Sequence[int | float | str]],
    task: Task,
    num_labels: int | None,
    outputs: int | None,
) -> tuple[tuple[str, ...] | None, int]:
    """Return the names that occur, or None and the number of ids."""
    cells = {cell for row in rows for cell in row}
    if not all(is_integer(cell) for cell in cells):
        refuse_scores(table, cells, task)
        names = tuple(sorted(str(cell) for cell in cells))
        return names, len(names)
    ids = sorted({int(float(cell)) for cell in cells})
    names = None if num_labels is not None else names_of_ids(table, ids, outputs)
    if names is not None:
        return names, len(names)
    count = num_labels or outputs or (max(ids, default=0) + 1)
    unseen = [index for index in range(min(count, 1000)) if index not in set(ids)]
    if unseen:
        _log.warning("%s: no row has a label of %s", table.source, unseen[:10])
    return None, max(count, 1)


def _cell(value: Any, table: Table, row: int) -> int | float | str:
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


def _cells(parts: Sequence[Any], table: Table, row: int) -> list[int | float | str]:
    cells = [_cell(part, table, row) for part in parts]
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
    return score


def _vectors(values: Sequence[Any] | np.ndarray, table: Table, space: LabelSpace) -> np.ndarray:
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
    rows: Sequence[Sequence[Any]], table: Table, space: LabelSpace, ids: Lookup
) -> np.ndarray:
    encoded = np.zeros((len(rows), space.count), np.float32)
    for row, parts in enumerate(rows):
        for cell in _cells(parts, table, row):
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
