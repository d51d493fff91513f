"""Columns of rows as they were read, with the place each row came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.errors import DataError

Cells = Sequence[Any] | np.ndarray
"""The values of a column, one for each row."""


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
      origins: what to call the source of each row, where there are several.
      remarks: what was noticed while reading.
      header_doubt: why the first row looks like data instead of names, or nothing.
    """

    columns: Mapping[str, Cells]
    source: str
    numbers: np.ndarray | None = None
    unit: str = "row"
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    origins: Sequence[str] | None = None
    remarks: tuple[Remark, ...] = ()
    header_doubt: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def at(self, row: int) -> str:
        """Say where a row is, for a message."""
        number = row + 1 if self.numbers is None else int(self.numbers[row])
        source = self.source if self.origins is None else self.origins[row]
        return f"{source} {self.unit} {number}"


def select(table: Table, rows: np.ndarray) -> Table:
    """Return some rows of a table, in the order asked for; they remember where they came from."""
    columns = {name: _take(values, rows) for name, values in table.columns.items()}
    numbers = _numbers(table)[rows]
    origins = None if table.origins is None else [table.origins[row] for row in rows.tolist()]
    return dataclasses.replace(table, columns=columns, numbers=numbers, origins=origins)


def concatenate(tables: Sequence[Table], source: str, *, optional: bool = False) -> Table:
    """Put the rows of several files below each other.

    Args:
      source: what to call them together.
      optional: whether a file may lack a column, whose cells are then None.

    Raises:
      DataError: files differ in their columns or in the names of their labels.
    """
    first = tables[0]
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    remarks = tuple(dict.fromkeys(remark for table in tables for remark in table.remarks))
    for table in tables[1:]:
        if not optional and set(table.columns) != set(names):
            raise DataError(
                f"{table.source}: got the columns {list(table.columns)}, expected "
                f"{list(first.columns)} as in {first.source}; read files of one kind only, named "
                "by a pattern or a list"
            )
        if table.names != first.names:
            raise DataError(
                f"{table.source}: got the label names {dict(table.names)}, expected "
                f"{dict(first.names)} as in {first.source}, so that ids mean the same"
            )
    if len(tables) == 1:
        return dataclasses.replace(first, source=source, origins=[first.source] * len(first))
    for name in names:
        lacking = [table.source for table in tables if name not in table.columns]
        if lacking:
            message = (
                f"{len(lacking)} of {len(tables)} files of {source} have no column {name!r}, so "
                f"their rows have nothing there: {listed(lacking)}"
            )
            remarks += (Remark("columns", message),)
    return Table(
        columns={name: _joined([_cells(table, name) for table in tables]) for name in names},
        source=source,
        numbers=np.concatenate([_numbers(table) for table in tables]),
        unit=first.unit,
        names=first.names,
        origins=[table.source for table in tables for _ in range(len(table))],
        remarks=remarks,
        header_doubt=next((table.header_doubt for table in tables if table.header_doubt), ""),
    )


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a message, the first few of many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _numbers(table: Table) -> np.ndarray:
    return np.arange(1, len(table) + 1) if table.numbers is None else table.numbers


def _cells(table: Table, name: str) -> Cells:
    return table.columns[name] if name in table.columns else [None] * len(table)


def _joined(parts: Sequence[Cells]) -> Cells:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({part.shape[1:] for part in arrays}) == 1:
        return np.concatenate(arrays)
    return [value for part in parts for value in part]


def _take(values: Cells, rows: np.ndarray) -> Cells:
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in rows.tolist()]


def only_column(found: Sequence[str], key: str, table: Table) -> str:
    """Return the one column that could be meant by `data.<key>`.

    Raises:
      DataError: there is none or more than one.
    """
    if len(found) == 1:
        return found[0]
    what = f"could mean {[*found]}" if found else "has no column with a usual name"
    if not found and table.header_doubt:
        raise DataError(f"data.{key}: {table.source} {what}; {table.header_doubt}")
    raise DataError(
        f"data.{key}: {table.source} {what}, expected one; set data.{key} to one of the columns "
        f"{list(table.columns)}"
    )
