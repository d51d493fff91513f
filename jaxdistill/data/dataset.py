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
from jaxdistill.data.bpe import ENCODER, choose_tokenizer
from jaxdistill.data.columns import Modality, Roles, find_roles
from jaxdistill.data.holdout import hold_out, subset
from jaxdistill.data.labels import encode_labels, is_generic, label_space
from jaxdistill.data.sources import read_sources
from jaxdistill.data.split import Split, feature_split, image_split, read_texts, text_split
from jaxdistill.data.table import Table, select
from jaxdistill.data.tokens import check_row_limits, load_tokenizer
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set ready to be batched.

    Attributes:
      labels: names in the order of ids, or None where there are none.
      num_labels: classes; 1 for regression.
      fingerprint: hash of what training reads, the splits for training and validation.
      notes: counts worth telling: `train.rows`, `train.cut` (longer than the limit),
        `train.repeated` (inputs that occurred before), `validation.seen` (inputs also in training).
      tokenizer: folder of the tokenizer that read the texts, None without texts.
      vocabulary: its number of tokens.
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


def prepare(
    config: DataConfig,
    *,
    task: Task,
    tokenizer_folder: Path | None,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    row_limits: Mapping[str, int] | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """Read, check, split and tokenize the data a configuration names.

    Args:
      config: sources, columns and limits.
      task: what the labels are.
      tokenizer_folder: Hugging Face folder of the model that reads the text, unless the
        configuration names another tokenizer; None for images.
      labels: the model's label names in the order of its ids.
      num_labels: the model's number of classes.
      row_limits: the longest row that each model has positions for, by who it is.
      cache_dir: where a tokenizer that is trained is kept, and where `data.cache` is true, tokens.

    Raises:
      DataError: one line that names the source, what it holds and what was expected.
    """
    sources = read_sources(config)
    given = {"train": sources.train, "validation": sources.validation, "test": sources.test}
    tables = {part: table for part, table in given.items() if table is not None}
    roles = find_roles(sources.train, config, task=task)
    for table in tables.values():
        _check_columns(table, roles)
    names = _label_names(config.labels, labels)
    space = label_space(sources.train, roles.labels, task=task, labels=names, num_labels=num_labels)
    encoded = {part: encode_labels(table, roles.labels, space) for part, table in tables.items()}
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
    tokenizer = None
    if roles.modality == "text":
        check_row_limits(config.max_length, row_limits or {})
        tokenizer = choose_tokenizer(
            config.tokenizer,
            tokenizer_folder,
            texts=lambda: _texts(select(sources.train, rows["train"]), roles),
            source=sources.train.source,
            folder=cache_dir,
            specials=ENCODER,
        )
    cache_dir = cache_dir if config.cache else None
    splits = {
        part: _split(
            select(tables[part], rows[part]),
            roles,
            encoded[part][rows[part]],
            config,
            tokenizer,
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
        tokenizer=tokenizer,
        vocabulary=None if tokenizer is None else len(load_tokenizer(tokenizer)),
    )


def _texts(table: Table, roles: Roles) -> list[str]:
    return [text for name in roles.inputs for text in read_texts(table, name)]


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
    assert tokenizer_folder is not None  # texts were asked for theirs
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
    configured: Sequence[str] | None, models: Sequence[str] | None
) -> Sequence[str] | None:
    """Take the names from the configuration or the model; the two must not contradict."""
    if configured is None or models is None or is_generic(models):
        return models if configured is None else configured
    if list(configured) != list(models):
        raise DataError(
            f"data.labels: got {list(configured)}, expected the model's own names and order "
            f"{list(models)}; drop data.labels"
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
