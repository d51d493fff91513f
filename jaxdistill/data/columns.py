"""Which columns hold the input and the label, where the configuration does not say."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxdistill.config import DataConfig
from jaxdistill.config_terms import Task
from jaxdistill.data.table import Table
from jaxdistill.errors import DataError, did_you_mean

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("query", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
TEXTS = ("sentence", "text", "content", "review", "question", "query", "comment_text")
IMAGES = ("image", "img", "image_path", "img_path", "image_file")
LABELS = ("label", "labels", "target", "class", "score")
SCORES = ("score", "label", "labels", "target")
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
    images = [name for name in IMAGES if name in table.columns]
    if images:
        return "image", (_only(images, "image", table),)
    pairs = [pair for pair in PAIRS if all(name in table.columns for name in pair)]
    paired = {name for pair in pairs for name in pair}
    singles = [name for name in TEXTS if name in table.columns and name not in paired]
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
    usual = SCORES if task == "regression" else LABELS
    found = [name for name in usual if name in table.columns and name not in inputs]
    if len(found) > 1 and "score" in found:
        # A file with both has one for each task; `score` is the number.
        found = ["score"] if task == "regression" else [name for name in found if name != "score"]
    if task == "multilabel" and not found:
        flags = config.labels or _flag_columns(table, inputs)
        if flags and all(name in table.columns for name in flags):
            return tuple(flags)
    return (_only(found, "label", table),)


def _only(found: list[str], key: str, table: Table) -> str:
    if len(found) == 1:
        return found[0]
    what = f"could mean {found}" if found else "has no column with a usual name"
    raise DataError(
        f"data.{key}: {table.source} {what}, expected one; set data.{key} to one of the columns "
        f"{list(table.columns)}"
    )


def _flag_columns(table: Table, inputs: tuple[str, ...]) -> tuple[str, ...]:
    flags = {"0", "1", "0.0", "1.0", "False", "True"}
    return tuple(
        name
        for name, values in table.columns.items()
        if name not in (*inputs, "id", "index", "idx")
        and all(str(value).strip() in flags for value in values)
    )
