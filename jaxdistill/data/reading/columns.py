"""Which columns hold the input and the label, where the configuration does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.column_names import (
    IMAGES,
    PAIRS,
    TEXTS,
    WEAKER_TEXTS,
    by_usual_name,
)
from jaxdistill.data.reading.table import Remark, Table, listed, only_column
from jaxdistill.errors import DataError, did_you_mean
from jaxdistill.modalities.modality import Modality
from jaxdistill.modalities.registry import modalities, modality_named, recognizable
from jaxdistill.tasks.registry import task_named

_SAMPLE = 500


@dataclasses.dataclass(frozen=True)
class Roles:
    """The columns that matter: those of the input (a pair for two texts) and of the labels.

    Several label columns are 0/1 columns of a multi-label task.
    """

    modality: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]


def find_roles(table: Table, config: DataConfig, *, task: str) -> Roles:
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
    for key in (*(key for one in modalities().values() for key in one.column_keys), "label"):
        name = getattr(config, key)
        if name is not None and name not in table.columns:
            found = list(table.columns)
            raise DataError(
                f"data.{key}: {table.source} has no column {name!r}, expected one of {found}."
                f"{did_you_mean(name, found)}"
            )
    modality, inputs = _inputs(table, config)
    find_labels = task_named(task).find_labels
    assert find_labels is not None  # of a task with labels
    return Roles(modality, inputs, function_of(find_labels)(table, config, inputs))


def _inputs(table: Table, config: DataConfig) -> tuple[str, tuple[str, ...]]:
    """Look for columns that are named for a kind of input, then for columns with usual names."""
    wanted = config.modality
    candidates = recognizable() if wanted is None else [modality_named(wanted)]
    for way in ("named", "usual"):
        for kind in candidates:
            found = getattr(kind, way)
            columns = None if found is None else function_of(found)(table, config)
            if columns is not None:
                _check_options(table, kind, columns)
                return kind.name, tuple(columns)
    raise DataError(
        f"data.modality: got {wanted!r}, but {table.source} has no column that is known to hold "
        f"{candidates[0].plural}, only {list(table.columns)}; name other columns, or drop "
        "data.modality"
    )


def _check_options(table: Table, kind: Modality, columns: Sequence[str]) -> None:
    """Check columns that the options of a kind of input name; keys of `data` were checked."""
    for name in columns if kind.has_options else ():
        if name not in table.columns:
            found = list(table.columns)
            raise DataError(
                f"data.inputs: {table.source} has no column {name!r}, expected one of {found}."
                f"{did_you_mean(name, found)}"
            )


def feature_columns(table: Table, config: DataConfig) -> tuple[str, ...] | None:
    """Return the column of vectors that an `.npz` file holds as `x`."""
    values = table.columns.get("features")
    return ("features",) if isinstance(values, np.ndarray) else None


def named_image(table: Table, config: DataConfig) -> tuple[str, ...] | None:
    """Return the column that `data.image` names."""
    return None if config.image is None else (config.image,)


def usual_image(table: Table, config: DataConfig) -> tuple[str, ...] | None:
    """Return the only column with a usual name of images.

    Raises:
      DataError: there are several.
    """
    usual = by_usual_name(table.columns)
    images = [usual[name] for name in IMAGES if name in usual]
    return (only_column(images, "image", table),) if images else None


def named_texts(table: Table, config: DataConfig) -> tuple[str, ...] | None:
    """Return the column, or the pair, that `data.text` and `data.text_pair` name.

    Raises:
      DataError: only the second text is named.
    """
    if config.text is not None:
        pair = () if config.text_pair is None else (config.text_pair,)
        return (config.text, *pair)
    if config.text_pair is not None:
        raise DataError("data.text: got only data.text_pair, expected the first text's column too")
    return None


def usual_texts(table: Table, config: DataConfig) -> tuple[str, ...]:
    """Return the only column, or pair of columns, with usual names of texts.

    Raises:
      DataError: there are none or several.
    """
    usual = by_usual_name(table.columns)
    pairs = [(usual[a], usual[b]) for a, b in PAIRS if a in usual and b in usual]
    paired = {name for pair in pairs for name in pair}
    singles = [usual[name] for name in TEXTS if name in usual and usual[name] not in paired]
    if not pairs and not singles:
        singles = [usual[name] for name in WEAKER_TEXTS if name in usual]
    if len(pairs) == 1 and not singles:
        return pairs[0]
    if not pairs:
        return (only_column(singles, "text", table),)
    raise DataError(
        f"data.text: {table.source} could mean {[*map(list, pairs), *singles]}, expected one; set "
        f"data.text (and data.text_pair) to columns of {list(table.columns)}"
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
        message = (
            f"{table.source}: the texts in {listed(unread, 8)} are not read, only "
            f"{listed([*read], 8)}; name columns in the configuration to read others"
        )
        found += (Remark("unread columns", message),)
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
