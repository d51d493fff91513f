"""A configuration to a data set: read, checked, split and made numbers, once."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.config import DataConfig
from jaxdistill.config_terms import Task
from jaxdistill.data.columns import Modality, Roles, find_roles
from jaxdistill.data.holdout import hold_out, subset
from jaxdistill.data.labels import UnknownLabelError, encode_labels, is_generic, label_space
from jaxdistill.data.sources import read_sources
from jaxdistill.data.split import Split, feature_split, image_split, text_split
from jaxdistill.data.table import Table, select
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")
_PLURAL = {"text": "texts", "image": "images", "features": "features"}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set ready to be batched.

    Attributes:
      labels: names in the order of ids, or None where there are none.
      num_labels: classes; 1 for regression.
      fingerprint: hash of what training reads, the splits for training and validation.
      notes: counts worth telling: `train.rows`, `train.cut` (longer than the limit),
        `train.repeated` (inputs that occurred before), `validation.seen` (inputs also in training).
      tokenizer: folder of the tokenizer of a language model's documents, else None.
      vocabulary: its number of tokens, else None.
    """

    train: Split
    validation: Split
    test: Split | None
    modality: Modality
    labels: tuple[str, ...] | None
    num_labels: int
    fingerprint: str
    notes: Mapping[str, int]
    tokenizer: Path | None = None
    vocabulary: int | None = None


@dataclasses.dataclass(frozen=True)
class NamedHead:
    """A model's head whose outputs have names.

    Attributes:
      names: in the order of its ids.
      model: whose it is, for messages.
      remedy: what to do where the data has other labels.
    """

    names: tuple[str, ...]
    model: str
    remedy: str


def prepare(
    config: DataConfig,
    *,
    task: Task,
    tokenizer_folder: Path | None,
    labels: NamedHead | Sequence[str] | None = None,
    num_labels: int | None = None,
    readers: Mapping[str, Sequence[Modality]] | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """Read, check, split and tokenize the data a configuration names.

    Args:
      config: sources, columns and limits.
      task: what the labels are.
      tokenizer_folder: Hugging Face folder of the model that reads the text; None for images.
      labels: the model's label names in the order of its ids, or its head.
      num_labels: the model's number of classes.
      readers: what each model can read, by a name for messages.
      cache_dir: where tokens are kept between runs; not used where `data.cache` is false.

    Raises:
      DataError: one line that names the source, what it holds and what was expected.
    """
    sources = read_sources(config)
    given = {"train": sources.train, "validation": sources.validation, "test": sources.test}
    tables = {part: table for part, table in given.items() if table is not None}
    head = labels if isinstance(labels, NamedHead) else None
    flags = head is not None and all(name in sources.train.columns for name in head.names)
    # Of a table's columns of 0 and 1, those that the model's outputs are named after.
    named = {"labels": head.names} if head is not None and flags and not config.labels else {}
    roles = find_roles(sources.train, config.model_copy(update=named), task=task)
    for model, modalities in (readers or {}).items():
        if roles.modality not in modalities:
            raise DataError(
                f"{sources.train.source}: holds {_PLURAL[roles.modality]} in {list(roles.inputs)}, "
                f"expected {_PLURAL[modalities[0]]}, which {model} reads; give the data's columns "
                "as data.text or data.image, or another model"
            )
    for table in tables.values():
        _check_columns(table, roles)
    names = _label_names(config.labels, head or labels)
    space = label_space(sources.train, roles.labels, task=task, labels=names, num_labels=num_labels)
    try:
        encoded = {
            part: encode_labels(table, roles.labels, space) for part, table in tables.items()
        }
    except UnknownLabelError as error:
        if head is None or config.labels is not None:
            raise
        told = str(error).removesuffix(".")
        raise DataError(
            f"{told}; these are the labels of {head.model}: rename the data's, or {head.remedy}"
        ) from None
    rows = {part: np.arange(len(table)) for part, table in tables.items()}
    if "validation" not in tables:
        tables["validation"], encoded["validation"] = tables["train"], encoded["train"]
        rows["train"], rows["validation"] = hold_out(
            encoded["train"],
            config.validation_fraction,
            seed=config.split_seed,
            source=sources.train.source,
        )
    rows["train"] = _fewer(rows["train"], config)
    cache_dir = cache_dir if config.cache else None
    splits = {
        part: _split(
            select(tables[part], rows[part]),
            roles,
            encoded[part][rows[part]],
            config,
            tokenizer_folder,
            cache_dir,
        )
        for part in tables
    }
    whole = hashlib.sha256(
        "".join(splits[part].fingerprint for part in ("train", "validation")).encode()
    )
    return Dataset(
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        modality=roles.modality,
        labels=space.names,
        num_labels=space.count,
        fingerprint=whole.hexdigest()[:16],
        notes=_notes(splits, config),
    )


def _split(
    table: Table,
    roles: Roles,
    labels: np.ndarray,
    config: DataConfig,
    tokenizer_folder: Path | None,
    cache_dir: Path | None,
) -> Split:
    if roles.modality == "image":
        return image_split(table, roles, labels, config)
    if roles.modality == "features":
        return feature_split(table, roles, labels)
    return text_split(
        table,
        roles,
        labels,
        max_length=config.max_length,
        tokenizer_folder=tokenizer_folder,
        cache_dir=cache_dir,
    )


def _check_columns(table: Table, roles: Roles) -> None:
    for name in (*roles.inputs, *roles.labels):
        if name not in table.columns:
            what = "labels" if name in roles.labels else "input"
            raise DataError(
                f"{table.source}: has no column {name!r} with the {what}, which the training data "
                f"has; got {list(table.columns)}"
            )


def _label_names(
    configured: Sequence[str] | None, labels: NamedHead | Sequence[str] | None
) -> Sequence[str] | None:
    """Take the names from the configuration or the model; the two must not contradict."""
    head = labels if isinstance(labels, NamedHead) else None
    models = labels.names if isinstance(labels, NamedHead) else labels
    if configured is None or models is None or is_generic(models):
        return models if configured is None else configured
    if list(configured) != list(models):
        raise DataError(
            f"data.labels: got {list(configured)}, expected the model's own names and order "
            f"{list(models)}; drop data.labels{'' if head is None else f', or {head.remedy}'}"
        )
    return configured


def _fewer(rows: np.ndarray, config: DataConfig) -> np.ndarray:
    wanted = config.train_examples
    if wanted is None:
        return rows
    if wanted > len(rows):
        _log.warning("data.train_examples: got %d of %d rows, all are used", wanted, len(rows))
    return rows[subset(len(rows), wanted, seed=config.split_seed)]


def _notes(splits: Mapping[str, Split], config: DataConfig) -> dict[str, int]:
    """Count what a reader of results wants to know, and tell it once."""
    notes = {}
    inputs = {part: _inputs(split) for part, split in splits.items()}
    seen = set(inputs["train"])
    for part, split in splits.items():
        notes[f"{part}.rows"] = len(split)
        if split.tokens is not None:
            notes[f"{part}.cut"] = split.cut
            if split.cut:
                share = 100 * split.cut / len(split)
                _log.info(
                    "%s: %d rows (%.2f %%) cut to data.max_length=%d tokens",
                    part,
                    split.cut,
                    share,
                    config.max_length,
                )
        if part == "train":
            notes["train.repeated"] = len(split) - len(seen)
        else:
            notes[f"{part}.seen"] = sum(one in seen for one in inputs[part])
            if notes[f"{part}.seen"]:
                _log.info("%s: %d inputs are also in training", part, notes[f"{part}.seen"])
    return notes


def _inputs(split: Split) -> list[object]:
    if split.texts:
        return list(zip(*split.texts, strict=True))
    arrays = split.images if split.images is not None else split.features
    assert arrays is not None  # a split has tokens, images or features
    return [hashlib.sha256(row.tobytes()).digest() for row in arrays]
