"""JSON to tables: an object per line, lists of objects, and the shapes that pandas writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.data.reading.raw import without_surrogates
from jaxdistill.data.reading.table import Remark, Table
from jaxdistill.errors import DataError
from jaxdistill.types import Json

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# Numbers of thousands of digits are a ValueError, lists inside of thousands of lists a
# RecursionError.
_UNREADABLE = (ValueError, RecursionError)


def read_json(text: str, source: str) -> Table:
    """Read one JSON object per line, else a whole file of rows; a key that a row lacks is None.

    A whole file is a list of objects, an object of columns (`pandas.DataFrame.to_json`), or an
    object with rows under one of its keys.

    Raises:
      DataError: it is none of them.
    """
    # Not str.splitlines: it also breaks on characters that may stand inside a sentence.
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line and not line.isspace()
    ]
    if lines and (lines[0][1].lstrip().startswith("[") or _is_one_value(lines)):
        return _whole(text, source)
    rows, cleaned = [], []
    for number, line in lines:
        try:
            row = json.loads(line)
        except _UNREADABLE as error:
            raise DataError(f"{source} line {number}: not valid JSON: {_reason(error)}") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{source} line {number}: got {type(row).__name__}, expected a JSON object per line"
            )
        if _SURROGATE.search(line):
            clean = _clean(row)
            if clean != row:
                cleaned.append(number)
            row = clean
        rows.append(row)
    if len(rows) == 1 and (columns := _columns_of(rows[0])):
        return Table(columns, source)
    numbers = np.array([number for number, _ in lines], np.int64)
    return Table(_by_column(rows), source, numbers, "line", remarks=_told(source, cleaned))


def _is_one_value(lines: Sequence[tuple[int, str]]) -> bool:
    """Say whether an object goes on over several lines."""
    try:
        json.loads(lines[0][1])
    except json.JSONDecodeError as error:
        # A first line that is damaged inside is a damaged line, not the beginning of a value.
        return len(lines) > 1 and error.pos >= len(lines[0][1].rstrip())
    except _UNREADABLE:
        return False  # It is whole, and what is wrong with it is told when it is read.
    return False


def _whole(text: str, source: str) -> Table:
    try:
        value = json.loads(text)
    except _UNREADABLE as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(f"{source} line {line}: not valid JSON: {_reason(error)}") from None
    found = _clean(value) if _SURROGATE.search(text) else value
    remarks = _told(source, [1] if found != value else [])
    if isinstance(found, dict):
        if columns := _columns_of(found):
            return Table(columns, source, remarks=remarks)
        rows = [name for name, inner in found.items() if _is_rows(inner)]
        if len(rows) != 1:
            raise DataError(
                f"{source}: got one JSON object with the keys {list(found)[:8]}, expected an "
                "object per line, a list of objects, or rows under one of the keys"
            )
        found = found[rows[0]]
    if found and not _is_rows(found):
        raise DataError(f"{source}: got a list of other things, expected a list of JSON objects")
    return Table(_by_column(found), source, remarks=remarks)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, RecursionError):
        return "lists or objects inside of too many others"
    return str(error).split(":")[0].split(";")[0]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _columns_of(value: Json) -> dict[str, list[object]] | None:
    """Return the columns of an object of columns by row number, as pandas writes it."""
    parts = list(value.values())
    if not parts or not all(isinstance(part, dict) for part in parts):
        return None
    keys = list(parts[0])
    if not keys or not all(key.isdigit() for key in keys) or any(list(p) != keys for p in parts):
        return None
    return {name: list(part.values()) for name, part in value.items()}


def _by_column(rows: Sequence[Json]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def _told(source: str, lines: Sequence[int]) -> tuple[Remark, ...]:
    if not lines:
        return ()
    return (
        Remark(
            "characters",
            f"{len(lines)} rows of {source} (the first at line {lines[0]}) hold half of a "
            "character (a lone surrogate, as text that was cut has it), which is read as U+FFFD",
        ),
    )
