"""Which columns hold the input and the label, where the configuration does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal

import numpy as np

from jaxdistill.config.base import Task
from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.column_names import (
    IMAGES,
    LABELS,
    PAIRS,
    SCORES,
    TEXTS,
    WEAKER_LABELS,
    WEAKER_SCORES,
    WEAKER_TEXTS,
    by_usual_name,
)
from jaxdistill.data.reading.table import Remark, Table, listed
from jaxdistill.errors import DataError, did_you_mean

_SAMPLE = 500
Modality = Literal["text", "image", "features"]


@dataclasses.dataclass(frozen=True)
class Roles:
    """The columns that matter: one input (a pair for two texts) and the labels.

    Several label columns are 0/1 columns of a multi-label task.
    """

    modality: Modality
    inputs: tuple[str, ...]
    labels: tuple[str, ...]


def find_roles(table: Table, config: DataConfig, *, task: Task) -> Roles:
    """Choose the columns: those named in the configuration, else the only ones with a usual name.

    Raises:
      DataError: a named column is not there, or none or several could be meant.
    """
    for key in ("messages", "prompt", "completion"):
        if getattr(config, key) is not None:
            raise DataError(
                f"data.{key}: has no effect for task {task!r}, expected data.text (and "
                "data.text_pair); drop it, or set task=language_model"
            )
    for key in ("text", "text_pair", "image", "label"):
        name = getattr(config, key)
        if name is not None and name not in table.columns:
            found = list(table.columns)
            raise DataError(
                f"data.{key}: {table.source} has no column {name!r}, expected one of {found}."
                f"{did_you_mean(name, found)}"
            )
    modality, inputs = _inputs(table, config)
    return Roles(modality, inputs, _labels(table, config, task, inputs))


def _inputs(table: Table, config: DataConfig) -> tuple[Modality, tuple[str, ...]]:
    if "features" in table.columns and isinstance(table.columns["features"], np.ndarray):
        return "features", ("features",)
    if config.image is not None:
        return "image", (config.image,)
    if config.text is not None:
        pair = () if config.text_pair is None else (config.text_pair,)
        return "text", (config.text, *pair)
    if config.text_pair is not None:
        raise DataError("data.text: got only data.text_pair, expected the first text's column too")
    usual = by_usual_name(table.columns)
    images = [usual[name] for name in IMAGES if name in usual]
    if images:
        return "image", (_only(images, "image", table),)
    pairs = [(usual[a], usual[b]) for a, b in PAIRS if a in usual and b in usual]
    paired = {name for pair in pairs for name in pair}
    singles = [usual[name] for name in TEXTS if name in usual and usual[name] not in paired]
    if not pairs and not singles:
        singles = [usual[name] for name in WEAKER_TEXTS if name in usual]
    if len(pairs) == 1 and not singles:
        return "text", pairs[0]
    if not pairs:
        return "text", (_only(singles, "text", table),)
    raise DataError(
        f"data.text: {table.source} could mean {[*map(list, pairs), *singles]}, expected one; set "
        f"data.text (and data.text_pair) to columns of {list(table.columns)}"
    )


def _labels(
    table: Table, config: DataConfig, task: Task, inputs: tuple[str, ...]
) -> tuple[str, ...]:
    if config.label is not None:
        return (config.label,)
    usual = by_usual_name(name for name in table.columns if name not in inputs)
    names = SCORES if task == "regression" else LABELS
    found = [usual[name] for name in names if name in usual]
    if not found:
        names = WEAKER_SCORES if task == "regression" else WEAKER_LABELS
        found = [usual[name] for name in names if name in usual]
    if len(found) > 1 and "score" in usual:
        # A file with both has one for each task; `score` is the number.
        score = usual["score"]
        found = [score] if task == "regression" else [name for name in found if name != score]
    if task == "multilabel" and not found:
        flags = config.labels or _flag_columns(table, inputs)
        if flags and all(name in table.columns for name in flags):
            return tuple(flags)
    return (_only(found, "label", table),)


def _only(found: list[str], key: str, table: Table) -> str:
    if len(found) == 1:
        return found[0]
    what = f"could mean {found}" if found else "has no column with a usual name"
    if not found and table.header_doubt:
        raise DataError(f"data.{key}: {table.source} {what}; {table.header_doubt}")
    raise DataError(
        f"data.{key}: {table.source} {what}, expected one; set data.{key} to one of the columns "
        f"{list(table.columns)}"
    )


def remarks_on(table: Table, read: Collection[str]) -> tuple[Remark, ...]:
    """Say what was noticed while a table was read, and which texts in it are not learned from.

    Args:
      read: the columns that are.
    """
    found = table.remarks
    if table.header_doubt:
        found += (Remark("header", f"{table.source}: {table.header_doubt}"),)
    unread = [name for name in table.columns if name not in read and _is_text(table, name)]
    if unread:
        told = (
            f"{table.source}: the texts in {listed(unread, 8)} are not read, only "
            f"{listed([*read], 8)}; name columns in the configuration to read others"
        )
        found += (Remark("unread columns", told),)
    return found


def _is_text(table: Table, name: str) -> bool:
    """Tell sentences from names, paths and codes by the first rows that are not empty."""
    if name.endswith("_parse"):
        return False
    values = [value for value in table.columns[name][:_SAMPLE] if value is not None]
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not texts or len(texts) < len([value for value in values if value != ""]):
        return False
    words = sum(len(text.split()) for text in texts) / len(texts)
    # Chinese, Japanese and Thai have no spaces between words.
    letters = sum(not char.isascii() for text in texts for char in text) / len(texts)
    return len(set(texts)) > 0.05 * len(texts) and (words >= 3 or letters >= 8)


def _flag_columns(table: Table, inputs: tuple[str, ...]) -> tuple[str, ...]:
    flags = {"0", "1", "0.0", "1.0", "False", "True"}
    return tuple(
        name
        for name, values in table.columns.items()
        if name not in (*inputs, "id", "index", "idx")
        and not name.startswith("Unnamed: ")
        and all(str(value).strip() in flags for value in values)
    )
