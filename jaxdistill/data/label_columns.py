"""Which columns hold the labels, where the configuration does not say."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.column_names import (
    LABELS,
    SCORES,
    WEAKER_LABELS,
    WEAKER_SCORES,
    by_usual_name,
)
from jaxdistill.data.reading.table import Table, only_column


def class_column(table: Table, config: DataConfig, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the column of classes: the one that is named, else the only one with a usual name.

    Raises:
      DataError: none or several could be meant.
    """
    if config.label is not None:
        return (config.label,)
    return (only_column(_found(table, inputs, LABELS, WEAKER_LABELS), "label", table),)


def set_columns(table: Table, config: DataConfig, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the column of sets of labels, or the columns of 0 and 1, one for each label.

    Raises:
      DataError: none or several could be meant.
    """
    if config.label is not None:
        return (config.label,)
    found = _found(table, inputs, LABELS, WEAKER_LABELS)
    if not found:
        flags = config.labels or _flag_columns(table, inputs)
        if flags and all(name in table.columns for name in flags):
            return tuple(flags)
    return (only_column(found, "label", table),)


def score_column(table: Table, config: DataConfig, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the column of numbers: the one that is named, else the only one with a usual name.

    Raises:
      DataError: none or several could be meant.
    """
    if config.label is not None:
        return (config.label,)
    return (only_column(_found(table, inputs, SCORES, WEAKER_SCORES), "label", table),)


def _found(
    table: Table, inputs: Sequence[str], names: Sequence[str], weaker: Sequence[str]
) -> list[str]:
    """Return the columns with usual names; only where there are none, those with weaker ones."""
    usual = by_usual_name(name for name in table.columns if name not in inputs)
    found = [usual[name] for name in names if name in usual]
    if not found:
        found = [usual[name] for name in weaker if name in usual]
    if len(found) > 1 and "score" in usual:
        # A file with both has one for each task; `score` is the number.
        score = usual["score"]
        found = [score] if names is SCORES else [name for name in found if name != score]
    return found


def _flag_columns(table: Table, inputs: Sequence[str]) -> tuple[str, ...]:
    flags = {"0", "1", "0.0", "1.0", "False", "True"}
    return tuple(
        name
        for name, values in table.columns.items()
        if name not in (*inputs, "id", "index", "idx")
        and not name.startswith("Unnamed: ")
        and all(str(value).strip() in flags for value in values)
    )
