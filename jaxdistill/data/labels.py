"""What the labels of a table may be: the classes or sets that occur, or numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.data.label_cells import CellForm, find_form, read_rows
from jaxdistill.data.label_encoding import read_cell, read_cells
from jaxdistill.data.label_names import (
    agree_on_names,
    as_number,
    is_generic,
    is_integer,
    names_of_ids,
    refuse_scores,
)
from jaxdistill.data.label_space import LabelSpace
from jaxdistill.data.reading.table import Cells, Table
from jaxdistill.errors import DataError
from jaxdistill.tasks.registry import task_named

_log = logging.getLogger("jaxdistill")
_LISTS = (list, tuple, set, frozenset, dict, np.ndarray)


def label_space(
    table: Table,
    columns: Sequence[str],
    *,
    task: str,
    labels: Sequence[str] | None,
    num_labels: int | None,
    id_names: Sequence[str] | None = None,
    outputs: int | None = None,
) -> LabelSpace:
    """Find what the labels of a task may be; arguments and errors as for `class_space`."""
    find = task_named(task).label_space
    assert find is not None  # of a task with labels
    return function_of(find)(
        table,
        tuple(columns),
        labels=labels,
        num_labels=num_labels,
        id_names=id_names,
        outputs=outputs,
    )


def encode_labels(
    table: Table, columns: Sequence[str], space: LabelSpace, *, task: str
) -> np.ndarray:
    """Turn a table's labels into numbers, as the task's `outputs` say.

    Raises:
      DataError: naming the row, what it holds and what was expected.
    """
    encode = task_named(task).encode_labels
    assert encode is not None  # of a task with labels
    return function_of(encode)(table, columns, space)


def class_space(
    table: Table,
    columns: Sequence[str],
    *,
    labels: Sequence[str] | None,
    num_labels: int | None,
    id_names: Sequence[str] | None = None,
    outputs: int | None = None,
    several: bool = False,
) -> LabelSpace:
    """Find the classes: `labels` in that order, else the source's names, else those that occur.

    Names that only count (`LABEL_0`, …) are no names. Names that are found in the data are sorted.
    Whole numbers are ids where they are 0, 1, … without a gap, and else names (codes).

    Args:
      table: the training data.
      columns: columns of labels; several hold 0 and 1 each.
      labels: names in the order of the model's outputs.
      num_labels: number of the model's outputs.
      id_names: what the data calls its ids, in their order; the source's names where None.
      outputs: number of the outputs of a model whose names are not known: ids below are ids.
      several: whether a row may have several labels.

    Raises:
      DataError: names and numbers disagree, or the column holds no labels of this task.
    """
    columns = tuple(columns)
    if labels is not None and is_generic(labels) and id_names is None:
        num_labels, labels = num_labels or len(labels), None
    known = _known_names(table, columns, labels)
    count = num_labels if known is None else len(known)
    form, rows = CellForm(), [[]]
    if len(columns) == 1:
        form, rows = _read(table, columns[0], known, count, several=several)
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
        known, count = _occurring(table, rows, num_labels, outputs, several=several)
        by_name = known is not None
    if num_labels is not None and count != num_labels:
        raise DataError(
            f"data.label: {table.source} has {count} classes {list(known or ())[:10]}, expected "
            f"{num_labels} as the model has; give its names as data.labels, or use another model"
        )
    source, order = agree_on_names(table, columns[0], known, id_names)
    numbers = len(columns) == 1 and all(is_integer(cell) for row in rows for cell in row)
    return LabelSpace(count, known, source, order, by_name, form, columns, numbers and not by_name)


def set_space(table: Table, columns: Sequence[str], **options: Any) -> LabelSpace:
    """Find the labels of which a row has any number; options as of `class_space`."""
    return class_space(table, columns, several=True, **options)


def value_space(table: Table, columns: Sequence[str], **_: object) -> LabelSpace:
    """Return the space of one number."""
    return LabelSpace(1, None, columns=tuple(columns))


def _known_names(
    table: Table, columns: Sequence[str], labels: Sequence[str] | None
) -> tuple[str, ...] | None:
    if labels is not None:
        return tuple(labels)
    return table.names.get(columns[0]) or (tuple(columns) if len(columns) > 1 else None)


def _read(
    table: Table,
    column: str,
    names: tuple[str, ...] | None,
    count: int | None,
    *,
    several: bool,
) -> tuple[CellForm, list[list[Any]]]:
    """Find out how the column is written, and read its cells unless they hold 0 and 1."""
    values = table.columns[column]
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return CellForm(flags=values.shape[1]), []
    if not several and not _holds_lists(values, names or ()):
        cells = [[read_cell(value, table, row)] for row, value in enumerate(values)]
        return CellForm(), cells
    form = find_form(values, table, names=names, count=count)
    if form.flags is not None:
        return form, []
    if not several:
        raise DataError(
            f"{table.at(0)}: got label {values[0]!r}, expected a name or an integer; set "
            "task=multilabel for rows of several labels, or data.label to another column"
        )
    rows = read_rows(values, table, form)
    return form, [read_cells(parts, table, row) for row, parts in enumerate(rows)]


def _holds_lists(values: Cells, names: Sequence[str]) -> bool:
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
    num_labels: int | None,
    outputs: int | None,
    *,
    several: bool,
) -> tuple[tuple[str, ...] | None, int]:
    """Return the names that occur, or None and the number of ids."""
    cells = {cell for row in rows for cell in row}
    if not all(is_integer(cell) for cell in cells):
        refuse_scores(table, cells, several=several)
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
