"""Which names labels have: the model's, the data's and those of its ids, and what are none."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

from jaxdistill.config.spelling import fold
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError, did_you_mean

_log = logging.getLogger("jaxdistill")

MISSING = frozenset({"", "nan", "<na>", "nat"})
"""Cells that mean that there is no label."""
_PERHAPS_MISSING = frozenset({"none", "null", "na", "n/a", "?", "-"})
_GENERIC = re.compile(r"LABEL_\d+")
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?")
_PADDED = re.compile(r"[+-]?0\d+")
_LONGEST_ID = 15
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")

POSITIVE = frozenset({"positive", "pos", "yes", "y", "true", "t", "1"})
NEGATIVE = frozenset(
    {"negative", "neg", "no", "n", "false", "f", "0", "-1"}
    | {
        "none",
        "normal",
        "other",
        "neutral",
        "ham",
        "benign",
        "clean",
        "safe",
        "legit",
        "legitimate",
    }
)
_NOT = re.compile(r"(?:not|non|no)(?: |-|_)(.+)")


def is_generic(names: Sequence[str]) -> bool:
    """Say whether names only count: `LABEL_0`, `LABEL_1`, … as in a checkpoint without names."""
    return all(_GENERIC.fullmatch(name) for name in names)


def is_integer(cell: int | float | str) -> bool:
    """Say whether a cell is a whole number that may be an id; `01` is a code.

    So is a number of more digits than a float tells apart, such as one of a customer.
    """
    if len(str(cell)) > _LONGEST_ID:
        return False
    if isinstance(cell, str):
        return bool(_INTEGER.fullmatch(cell)) and not _PADDED.fullmatch(cell)
    return isinstance(cell, int)


def as_number(text: str) -> float | None:
    """Return the number that a text is, or None."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def model_and_data_names(
    configured: Sequence[str] | None, models: Sequence[str] | None
) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Settle what `data.labels` means beside the names that a model has.

    Returns:
      the names in the order of the outputs, and what the data calls its ids where it says so.

    Raises:
      DataError: the two share only a part of their names, or are not of one length.
    """
    if configured is None:
        return models, None
    numbers = sorted(int(name[6:]) for name in configured if _GENERIC.fullmatch(name))
    if numbers == list(range(len(configured))) and (models is None or is_generic(models)):
        # Without names, the outputs' numbers say which of them an id is.
        return [f"LABEL_{index}" for index in numbers], configured
    if models is None or is_generic(models):
        return configured, None
    ours, theirs = {fold(name) for name in configured}, {fold(name) for name in models}
    if len(configured) != len(models) or (ours != theirs and ours & theirs):
        raise DataError(
            f"data.labels: got {list(configured)}, expected the model's own names {list(models)} "
            "in the order of the data's ids, or what the data calls each of them"
        )
    if ours != theirs:
        _log.warning(
            "data.labels: %s are taken as the model's %s, in this order",
            list(configured)[:10],
            list(models)[:10],
        )
    return models, configured


def agree_on_names(
    table: Table,
    column: str,
    names: tuple[str, ...] | None,
    id_names: Sequence[str] | None,
) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """Match what the data calls its ids with the names of the outputs.

    Returns:
      the data's names, and the output of each of its ids (None where they are the same).

    Raises:
      DataError: `data.labels` and the source give the ids in two different orders.
    """
    own = table.names.get(column)
    source = own if id_names is None else tuple(id_names)
    if source is None or names is None or len(source) != len(names):
        if source is not None and names is not None:
            _tell_other_names(table, source, names)
        return source, None
    if own is not None and own != source and _order(own, names) is not None:
        given, found = _order(source, names), _order(own, names)
        if given not in (None, found, tuple(range(len(names)))):
            raise DataError(
                f"data.labels: got {list(source)}, but {table.source} itself names its ids "
                f"{list(own)}; drop data.labels"
            )
        source = own
    order = _order(source, names)
    if order is None:
        if id_names is None:
            _tell_other_names(table, source, names)
        return source, None
    return source, None if order == tuple(range(len(names))) else order


def _order(source: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the place of each of `source` in `names` where both hold the same, else None."""
    for ours, theirs in ((source, names), (list(map(fold, source)), list(map(fold, names)))):
        if len(set(ours)) == len(ours) and set(ours) == set(theirs):
            return tuple(list(theirs).index(name) for name in ours)
    return None


def _tell_other_names(table: Table, source: Sequence[str], names: Sequence[str]) -> None:
    _log.warning(
        "%s: its label names %s are not %s; ids are taken as they are",
        table.source,
        list(source)[:10],
        list(names)[:10],
    )


def names_of_ids(table: Table, ids: Sequence[int], outputs: int | None) -> tuple[str, ...] | None:
    """Return whole numbers as names where they are codes, or None where they are ids.

    Raises:
      DataError: -1 may be a class, or mark rows without one.
    """
    if list(ids) == list(range(len(ids))):
        return None
    if ids[0] >= 0 and outputs is not None:
        return None if ids[-1] < outputs else tuple(map(str, ids))
    if ids[0] == -1 and list(ids) != [-1, 1]:
        shown = ", ".join(map(str, ids[:20]))
        raise DataError(
            f"data.label: {table.source} has the labels {shown}, of which -1 may be a class or "
            f"mark rows without one; drop those rows, or set data.labels=[{shown}] to learn it"
        )
    return tuple(map(str, ids))


def refuse_scores(table: Table, cells: Iterable[int | float | str], *, several: bool) -> None:
    """Refuse labels that are numbers with decimals, or numbers with words for missing ones.

    Args:
      table: for messages.
      cells: the labels.
      several: whether a row may have several.

    Raises:
      DataError: saying what to do instead.
    """
    texts = sorted({str(cell) for cell in cells})
    numbers = [text for text in texts if as_number(text) is not None]
    others = [text for text in texts if as_number(text) is None]
    names = (
        f"or list the {len(texts)} labels as data.labels to learn them as classes"
        if len(texts) <= 20
        else "or write names instead of numbers"
    )
    decimals = [text for text in numbers if not float(text).is_integer()]
    if decimals and not others:
        other = "data.label to another column" if several else "task=regression"
        raise DataError(
            f"data.label: {table.source} has labels such as {decimals[0]}, {len(texts)} different "
            f"numbers with decimals, expected a name or an integer; set {other}, {names}"
        )
    commas = [text for text in others if _DECIMAL_COMMA.fullmatch(text)]
    if commas and len(commas) == len(others):
        raise DataError(
            f"data.label: {table.source} has labels such as {commas[0]!r}, {len(texts)} different "
            "numbers with a decimal comma, expected a name or an integer; write a point and set "
            f"task=regression, {names}"
        )
    missing = [text for text in others if text.casefold() in _PERHAPS_MISSING]
    if numbers and missing and len(missing) == len(others):
        raise DataError(
            f"data.label: {table.source} has {missing[0]!r} among numbers; drop the rows without "
            "a label, or give all names as data.labels"
        )


def positive_label(
    wanted: str | None,
    names: Sequence[str] | None,
    count: int,
    *,
    exclusive: bool,
    source_names: Sequence[str] | None = None,
) -> int | None:
    """Return the output whose F1 counts, or None where it is the mean over all.

    Args:
      wanted: the label that the configuration names (`data.positive`).
      names: names of the outputs, or None where they have numbers only.
      count: outputs.
      exclusive: whether each example has exactly one of them. Of two such labels, one counts even
        where none is named: the one that its name says is the positive one (`positive`, `yes`; the
        other of `normal`, `no`, `not_…`), else the second.
      source_names: other names of the outputs, in their order.

    Raises:
      DataError: there is no such label.
    """
    if wanted is None:
        if not exclusive or count != 2:
            return None
        found = conventional_positive(names)
        return 1 if found is None else found
    own = list(names) if names is not None else [str(index) for index in range(count)]
    for group in (own, list(source_names or ())):
        for key in (str, fold):
            keys = [key(name) for name in group]
            if keys.count(key(wanted)) == 1:
                return keys.index(key(wanted))
    raise DataError(
        f"data.positive: got {wanted!r}, expected one of {own[:20]}.{did_you_mean(wanted, own)}"
    )


def conventional_positive(names: Sequence[str] | None) -> int | None:
    """Return which of two names is the positive one by what it says, or None."""
    if names is None or len(names) != 2:
        return None
    folded = [fold(name) for name in names]
    for place, (ours, other) in enumerate((folded, folded[::-1])):
        negated = _NOT.fullmatch(other)
        if negated is not None and negated[1] == ours:
            return place
    for kind, place in ((POSITIVE, 0), (NEGATIVE, 1)):
        members = [name in kind for name in folded]
        if sum(members) == 1:
            return abs(members.index(True) - place)
    return None
