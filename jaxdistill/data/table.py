"""Columns of rows as they were read, with the place each row came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Remark:
    """What a reader of the results should know of the data, though nothing forbids it.

    Attributes:
      name: what it is about, such as `unread columns`.
      message: what was found and what to do about it.
    """

    name: str
    message: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one source before anything is known about the task.

    Attributes:
      columns: values by column name; lists or arrays of equal length.
      source: what to call the source in messages, such as a file's path.
      numbers: number of each row in its source, int64 [N]; counted from 1 where None.
      unit: what the numbers count: `line` of a file, or `row`.
      names: label names by column, in the order of their ids, where the source knows them.
      remarks: what was noticed while reading.
    """

    columns: Mapping[str, Sequence[Any] | np.ndarray]
    source: str
    numbers: np.ndarray | None = None
    unit: str = "row"
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def at(self, row: int) -> str:
        """Say where a row is, for a message."""
        number = row + 1 if self.numbers is None else int(self.numbers[row])
        return f"{self.source} {self.unit} {number}"


def select(table: Table, rows: np.ndarray) -> Table:
    """Return some rows of a table, in the order asked for; they remember where they came from."""
    columns = {name: _take(values, rows) for name, values in table.columns.items()}
    numbers = np.arange(1, len(table) + 1) if table.numbers is None else table.numbers
    return dataclasses.replace(table, columns=columns, numbers=numbers[rows])


def _take(values: Sequence[Any] | np.ndarray, rows: np.ndarray) -> Sequence[Any] | np.ndarray:
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in rows.tolist()]
