"""Several labels in one cell: lists, text that holds a list, rows of 0 and 1, names in a row."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxdistill.config.spelling import fold
from jaxdistill.data.label_lists import BRACKETED, NUMBER, is_bracketed, read_list, true_keys
from jaxdistill.data.reading.table import Cells, Table
from jaxdistill.errors import DataError

SEPARATORS = ("|", ";", "\n", ",")
"""What may stand between labels; the first that occurs does, and the others are parts of names."""
DOUBTFUL = ("/", "&", "+", ":", "#", "\t", " ")
"""What may as well be a part of a name: splits only at names that are known."""


@dataclasses.dataclass(frozen=True)
class CellForm:
    """How a column writes the labels of a row.

    Attributes:
      bracketed: text cells hold lists, such as `['a', 'b']`.
      separator: what stands between the labels of a text cell, or None.
      flags: rows hold 0 or 1 for each label, and there are so many; None where they hold labels.
    """

    bracketed: bool = False
    separator: str | None = None
    flags: int | None = None


def find_form(
    values: Cells,
    table: Table,
    *,
    names: Collection[str] | None,
    count: int | None,
) -> CellForm:
    """Find out how a column writes the labels of a row.

    Args:
      values: the column.
      table: names the source in messages.
      names: the labels that there are, where they are known.
      count: number of the labels, where it is known.

    Raises:
      DataError: the column can be read in two ways, or in none.
    """
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    bracketed = is_bracketed(texts)
    separator = None if bracketed else _separator(texts, table, names)
    form = CellForm(bracketed, separator)
    rows = read_rows(values, table, form)
    return dataclasses.replace(form, flags=_width(rows, table, count))


def read_rows(values: Cells, table: Table, form: CellForm) -> list[list[Any]]:
    """Read the labels (or 0 and 1) of every row; an empty text is a row without labels.

    Raises:
      DataError: a row has no value at all, or text that looks like a list but is none.
    """
    return [_row(value, table, row, form) for row, value in enumerate(values)]


def _row(value: object, table: Table, row: int, form: CellForm) -> list[Any]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(
            f"{table.at(row)}: got no labels ({value}), expected a list; it may be empty"
        )
    if isinstance(value, str):
        return _text_row(value.strip(), table, row, form)
    if isinstance(value, Mapping):
        try:
            return true_keys(value)
        except ValueError as error:
            raise DataError(
                f"{table.at(row)}: got the labels {value!r}, but {error}; give 0 or 1"
            ) from None
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim else [value.item()]
    if isinstance(value, list | tuple | set | frozenset):
        return [part.item() if isinstance(part, np.generic) else part for part in value]
    return [value.item() if isinstance(value, np.generic) else value]


def _text_row(text: str, table: Table, row: int, form: CellForm) -> list[Any]:
    if not text:
        return []
    if form.bracketed:
        if not BRACKETED.fullmatch(text):
            raise DataError(
                f"{table.at(row)}: got the labels {text[:60]!r}, expected a list such as "
                "['a', 'b'] as in the training data"
            )
        try:
            return read_list(text)
        except ValueError as error:
            raise DataError(
                f"{table.at(row)}: got the labels {text[:60]!r}, but {error}; write a JSON list "
                'such as ["a", "b"]'
            ) from None
    return list(_split(text, form.separator))


def _split(text: str, separator: str | None) -> Iterator[str]:
    if separator is None:
        yield text
        return
    parts = text.split() if separator == " " else text.split(separator)
    yield from (part.strip() for part in parts if part.strip())


def _width(rows: Sequence[Sequence[object]], table: Table, count: int | None) -> int | None:
    """Return how many 0 and 1 every row holds, or None where rows hold labels.

    Raises:
      DataError: they look like 0 and 1 but are not, or both readings are possible.
    """
    sizes = {len(row) for row in rows}
    kinds = {type(value) for row in rows for value in row}
    numbers = [[_number(value) for value in row] for row in rows]
    if any(value is None for row in numbers for value in row) or not kinds:
        return None
    decimals = bool(kinds & {float, bool})
    binary = all(value in (0, 1) for row in numbers for value in row)
    repeats = any(len(set(row)) < len(row) for row in numbers)
    if binary and len(sizes) == 1:
        (width,) = sizes
        if width > 1 and count in (None, width):
            return width
        if width == 1 and count == 1:
            return width
        if width == 1 and count is None:
            raise DataError(
                f"data.label: {table.source} has one 0 or 1 in every row, which may be the id of "
                "a label or whether one label holds; set task=classification, or give the names "
                "of the labels as data.labels"
            )
    if not decimals and not (binary and (repeats or (len(sizes) == 1 and sizes != {1}))):
        return None
    expected = count or Counter(len(row) for row in rows).most_common(1)[0][0]
    for place, row in enumerate(numbers):
        if not all(value in (0, 1) for value in row):
            raise DataError(
                f"{table.at(place)}: got the labels {list(rows[place])[:10]}, expected 0 or 1 for "
                "each label, or whole numbers as ids; round soft labels to 0 and 1"
            )
        if len(row) != expected:
            raise DataError(
                f"{table.at(place)}: got {len(row)} values of 0 and 1, expected {expected}, one "
                "for each label"
            )
    return None


def _number(value: object) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return float(value)
    return None


def _separator(texts: Sequence[str], table: Table, names: Collection[str] | None) -> str | None:
    if names:
        known = {fold(name) for name in names}
        for separator in (None, *SEPARATORS, *DOUBTFUL):
            parts = {part for text in texts for part in _split(text, separator)}
            if all(fold(part) in known or NUMBER.fullmatch(part) for part in parts):
                return separator
    found = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if not found:
        return _blank(texts, table)
    first, *others = found
    parts = {part for text in texts for part in _split(text, first)}
    for part in sorted(parts):
        for other in others:
            pieces = [piece for piece in _split(part, other) if piece in parts and piece != part]
            if pieces:
                raise DataError(
                    f"data.label: {table.source} separates labels with {first!r} in some rows and "
                    f"with {other!r} in others ({part!r}); write all with one of them, or as JSON "
                    f"lists such as {json.dumps([*_split(part, other)])}"
                )
    if first == "," and not names:
        _check_commas(texts, table)
    return first


def _check_commas(texts: Sequence[str], table: Table) -> None:
    """Refuse commas that nothing shows to separate labels instead of being part of a name."""
    rows = [list(_split(text, ",")) for text in texts]
    total = Counter(part for row in rows for part in row)
    pairs = Counter(pair for row in rows for pair in pairwise(row))
    if all(part.lstrip("+-").isdigit() for part in total):
        return
    if pairs and all(times == total[a] == total[b] for (a, b), times in pairs.items()):
        first, second = next(iter(pairs))
        names = sorted(set(texts))[:8]
        raise DataError(
            f"data.label: {table.source} has {first!r} and {second!r} only together, so their "
            f"comma may separate two labels or belong to one; give the names as data.labels, "
            f"e.g. data.labels={json.dumps(names, ensure_ascii=False)}, or write JSON lists"
        )


def _blank(texts: Sequence[str], table: Table) -> str | None:
    """Separate numbers at blanks; refuse names that are made of other names."""
    if all(re.fullmatch(r"\d+(\s+\d+)*", text) for text in texts):
        return " " if any(" " in text for text in texts) else _no_bits(texts, table)
    made = next(made_of(sorted(set(texts)), DOUBTFUL), None)
    if made is not None:
        whole, pieces = made
        raise DataError(
            f"data.label: {table.source} has {whole!r}, which may be one label or the labels "
            f"{pieces}; give the names as data.labels, or write JSON lists such as "
            f"{json.dumps(pieces, ensure_ascii=False)}"
        )
    return None


def _no_bits(texts: Sequence[str], table: Table) -> None:
    lengths = {len(text) for text in texts}
    if lengths != {1} and len(lengths) == 1 and all(set(text) <= {"0", "1"} for text in texts):
        raise DataError(
            f"data.label: {table.source} has {texts[0]!r}, which may be the name of a label or a "
            f"0 or 1 for each of {len(texts[0])}; write {json.dumps([int(c) for c in texts[0]])}"
        )


def made_of(
    names: Sequence[str], marks: Sequence[str] = (*SEPARATORS, *DOUBTFUL)
) -> Iterator[tuple[str, list[str]]]:
    """Yield the names that are made of others, such as `law|sport`, with those."""
    known = set(names)
    for name in names:
        for mark in marks:
            pieces = list(_split(name, mark))
            if len(pieces) > 1 and set(pieces) <= known - {name}:
                yield name, pieces
                break
