"""Text of separated cells, as other tools write it, to tables: CSV, TSV and their dialects."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxdistill.data.reading.column_names import is_usual
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")

_OTHER_DELIMITERS = (";", "\t", "|")
_SENTENCE = 6  # words of a cell that is no name
_QUOTED_CELL = re.compile(r'(?:^|(?<=[\t\r\n]))"(?:[^"]|"")*"(?=[\t\r\n]|\Z)')
_QUOTED_ON_A_LINE = re.compile(r'(?:^|(?<=[\t\r\n]))"(?:[^"\r\n]|"")*"(?=[\t\r\n]|\Z)')
_NEEDS_QUOTES = re.compile(r'[\t\r\n]|""')

Rows = list[tuple[int, list[str]]]
"""Rows of cells, each with the line that it begins on."""


def read_csv(text: str, source: str, names: Sequence[str] | None = None) -> Table:
    """Read cells that may be quoted, separated by commas, else by what the first line has instead.

    Raises:
      DataError: a quote is never closed, rows differ in length, or a header is none.
    """
    try:
        rows, fault = _quoted_rows(text, ","), None
    except csv.Error as error:
        rows, fault = [], error
    if fault is not None or not _is_regular(rows):
        first = text[: text.find("\n")] if "\n" in text else text
        for delimiter in (mark for mark in _OTHER_DELIMITERS if mark in first):
            try:
                other = (
                    _tab_rows(text, source) if delimiter == "\t" else _quoted_rows(text, delimiter)
                )
            except csv.Error:
                continue
            if _is_regular(other):
                _log.info("%s: cells are separated by %r", source, delimiter)
                return _table(other, source, names)
    if fault is not None:
        raise DataError(
            f"{source} line {_line_of(fault)}: not valid CSV: {fault}; a quote in a quoted cell is "
            'written twice ("")'
        )
    return _table(rows, source, names)


def read_tsv(text: str, source: str, names: Sequence[str] | None = None) -> Table:
    """Read cells separated by tabs, with quotes as characters like any other, or as in CSV.

    Raises:
      DataError: rows differ in length, or a header is none.
    """
    return _table(_tab_rows(text, source), source, names)


def _tab_rows(text: str, source: str) -> Rows:
    plain = _plain_rows(text)
    if '"' not in text or not _is_quoted(text, plain):
        return plain
    try:
        rows = _quoted_rows(text, "\t")
    except csv.Error:
        return plain
    _log.info("%s: quotes around cells are taken off, as in CSV", source)
    return rows


def _is_quoted(text: str, plain: Rows) -> bool:
    """Tell whether quotes enclose cells (pandas, Excel) or are part of the text (GLUE).

    A writer that encloses cells does so for all that have a quote, tab or line break in them, and
    doubles the quotes inside; in text that nobody enclosed some quote breaks this rule.
    """
    whole = len({len(cells) for _, cells in plain}) == 1 and len(plain[0][1]) > 1
    # Where every line has as many cells as the header, none goes on in the next line.
    pattern = _QUOTED_ON_A_LINE if whole else _QUOTED_CELL
    if '"' in pattern.sub("", text):
        return False
    if all(re.fullmatch(r'"[^"]*"', cell) for cell in plain[0][1]):
        return True
    return any(_NEEDS_QUOTES.search(found[1:-1]) for found in pattern.findall(text))


def _plain_rows(text: str) -> Rows:
    # Not str.splitlines: it also breaks on characters that may stand inside a sentence.
    return [
        (number, line.removesuffix("\r").split("\t"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line and not line.isspace()
    ]


def _quoted_rows(text: str, delimiter: str) -> Rows:
    limit = csv.field_size_limit(min(len(text) + 1, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            if any(cell and not cell.isspace() for cell in cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        error.add_note(str(line))
        raise
    finally:
        csv.field_size_limit(limit)
    return rows


def _line_of(error: csv.Error) -> str:
    return error.__notes__[0]


def _is_regular(rows: Rows) -> bool:
    """Say whether rows have two cells or more and all as many, one put aside that is empty."""
    if not rows or len(rows[0][1]) < 2:
        return False
    width = len(rows[0][1])
    return all(
        len(cells) == width or (len(cells) == width + 1 and not cells[-1]) for _, cells in rows
    )


def _table(rows: Rows, source: str, names: Sequence[str] | None) -> Table:
    """Make a table of rows, the first of which names the columns unless `names` does."""
    if not rows:
        return Table({}, source)
    if names is None:
        header, rows = [name.strip() for name in rows[0][1]], rows[1:]
    else:
        header = list(names)
        _check_names(header, rows[0], source)
    cells = [list(row) for _, row in rows]
    if cells and all(len(row) == len(header) + 1 and not row[-1].strip() for row in cells):
        cells = [row[:-1] for row in cells]
    for row, (line, _) in zip(cells, rows, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{source} line {line}: got {len(row)} cells, expected {len(header)} as in the "
                f"header {header}"
            )
    columns = [list(column) for column in zip(*cells, strict=True)] or [[] for _ in header]
    doubt = "" if names is not None else header_doubt(header, columns)
    repeated = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if repeated:
        raise DataError(
            f"{source}: got the column {repeated[0]!r} twice, expected each name once"
            + (f"; {doubt}" if doubt else "")
        )
    values = {
        # As pandas calls the column that its index becomes.
        name or f"Unnamed: {number}": column
        for number, (name, column) in enumerate(zip(header, columns, strict=True))
        if name or any(cell.strip() for cell in column)
    }
    lines = np.array([line for line, _ in rows], np.int64)
    return Table(values, source, lines, "line", header_doubt=doubt)


def _check_names(names: list[str], first: tuple[int, list[str]], source: str) -> None:
    line, cells = first
    given = [cell.strip().casefold() for cell in cells]
    if given == [name.casefold() for name in names]:
        raise DataError(
            f"data.columns: {source} line {line} holds these names already; drop data.columns"
        )
    if len(cells) != len(names) and not (len(cells) == len(names) + 1 and not cells[-1]):
        shown = [cell if len(cell) <= 20 else f"{cell[:20]}..." for cell in cells]
        raise DataError(
            f"data.columns: got {len(names)} names {names}, expected {len(cells)} for the cells of "
            f"{source} line {line}: {shown}"
        )


def header_doubt(header: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """Say why a first row looks like data instead of names, with the way out; nothing if not."""
    if any(is_usual(name) for name in header):
        return ""
    if [name for name in header if name] == [str(i) for i in range(sum(map(bool, header)))]:
        return ""  # pandas numbers columns that have no names
    for name, column in zip(header, columns, strict=True):
        sample = [cell.strip() for cell in column[:1000]]
        if _is_number(name) and sample and all(map(_is_number, sample)):
            why = f"{name!r} is a number, as all of its column are"
        elif len(name.split()) >= _SENTENCE or len(name) > 60:
            why = f"{name[:40]!r}... is a text of {len(name)} characters"
        elif name and name in sample:
            why = f"{name!r} is also a cell of its column"
        else:
            continue
        names = ", ".join(f"name{i}" for i in range(1, len(header) + 1))
        return (
            f"its first row looks like data, not like names of columns ({why}); if the file has no "
            f"header, name its {len(header)} columns: data.columns=[{names}], with text and label "
            "for what is learned"
        )
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
