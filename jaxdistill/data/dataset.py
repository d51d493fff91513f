"""A configuration to a data set: read, checked, split and made numbers, once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import DataConfig
from jaxdistill.data.holdout import hold_out, subset
from jaxdistill.data.inputs.reading import Found, Source
from jaxdistill.data.label_names import model_and_data_names, positive_label
from jaxdistill.data.label_space import LabelSpace, UnknownLabelError
from jaxdistill.data.labels import encode_labels, label_space
from jaxdistill.data.reading.columns import Roles, find_roles, remarks_on
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.sources import read_sources
from jaxdistill.data.reading.table import Remark, Table, select
from jaxdistill.data.split import Split, combined, make_split
from jaxdistill.errors import DataError
from jaxdistill.files.hashing import hash_bytes
from jaxdistill.modalities.registry import modalities, modality_named, reads
from jaxdistill.tasks.registry import task_named
from jaxdistill.types import Json

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set ready to be batched.

    Attributes:
      modality: what kind of input its examples are, by name.
      labels: names in the order of ids, or None where there are none.
      num_labels: classes; 1 for regression.
      fingerprint: hash of what training reads, the splits for training and validation.
      notes: counts worth telling: `train.rows`, `train.cut` (longer than the limit),
        `train.repeated` (inputs that occurred before), `validation.seen` (inputs also in training).
      tokenizer: folder of the tokenizer that read the texts, None without texts.
      vocabulary: number of the tokenizer's tokens.
      positive: id of the label whose F1 counts, or None for the mean over labels.
      space: how labels were read, or None where there are none.
      remarks: what was noticed while reading, for the doctor to say.
    """

    train: Split
    validation: Split
    test: Split | None
    modality: str
    labels: tuple[str, ...] | None
    num_labels: int
    fingerprint: str
    notes: Mapping[str, int]
    tokenizer: Path | None = None
    vocabulary: int | None = None
    positive: int | None = None
    space: LabelSpace | None = None
    remarks: tuple[Remark, ...] = ()


@dataclasses.dataclass(frozen=True)
class NamedHead:
    """A model's head whose outputs have names.

    Attributes:
      names: in the order of its ids.
      model: name of the model that has it, for messages.
      remedy: what to do where the data has other labels.
    """

    names: tuple[str, ...]
    model: str
    remedy: str


def prepare(
    config: DataConfig,
    *,
    task: str,
    tokenizer_folder: Path | None,
    labels: NamedHead | Sequence[str] | None = None,
    num_labels: int | None = None,
    row_limits: Mapping[str, int] | None = None,
    outputs: int | None = None,
    readers: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
    preprocessing: Preprocessing | None = None,
    channels: int | None = None,
    remarks: tuple[Remark, ...] = (),
) -> Dataset:
    """Read, check, split and tokenize the data a configuration names.

    Args:
      config: sources, columns and limits.
      task: what the labels are.
      tokenizer_folder: Hugging Face folder of the model that reads the text, unless the
        configuration names another tokenizer; None for images.
      labels: the model's label names in the order of its ids, or its head.
      num_labels: the model's number of classes.
      outputs: number of the outputs of a model without names: numbers below are ids, others are
        names.
      readers: the kind of input that each model is made for, by a name for messages.
      row_limits: the longest row that each model has positions for, by who it is.
      cache_dir: where a tokenizer that is trained is kept, and where `data.cache` is true, tokens.
      preprocessing: what the model that reads images expects; what `data` says goes before it.
      channels: number of channels that the model reads, 1 or 3; None: as the data has them.
      remarks: what was noticed while the models were asked how they read inputs.

    Raises:
      DataError: one line that names the source, what it holds and what was expected.
    """
    sources = read_sources(config)
    given = {"train": sources.train, "validation": sources.validation, "test": sources.test}
    tables = {part: table for part, table in given.items() if table is not None}
    head = labels if isinstance(labels, NamedHead) else None
    roles = _roles(sources.train, config, task, head)
    _check_readers(sources.train, roles, readers or {})
    tables, noticed = _with_labels(tables, roles, sources.brought)
    for table in tables.values():
        _check_columns(table, roles)
    names = labels.names if isinstance(labels, NamedHead) else labels
    names, id_names = model_and_data_names(config.labels, names)
    space = label_space(
        sources.train,
        roles.labels,
        task=task,
        labels=names,
        num_labels=num_labels,
        id_names=id_names,
        outputs=outputs,
    )
    positive = positive_label(
        config.positive,
        space.names,
        space.count,
        exclusive=task_named(task).outputs == "classes",
        source_names=space.source_names,
    )
    try:
        encoded = {
            part: encode_labels(table, roles.labels, space, task=task)
            for part, table in tables.items()
        }
    except UnknownLabelError as error:
        if head is None or config.labels is not None:
            raise
        message = str(error).removesuffix(".")
        raise DataError(
            f"{message}; these are the labels of {head.model}: rename the data's, or {head.remedy}"
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
    chosen = {part: select(tables[part], rows[part]) for part in tables}
    _refuse_options_of_others(config, sources.train, roles)
    found: Found = function_of(modality_named(roles.modality).read)(
        chosen,
        Source(
            columns=roles.inputs,
            config=config,
            tokenizer=tokenizer_folder,
            row_limits=row_limits or {},
            preprocessing=preprocessing,
            channels=channels,
            cache=cache_dir,
            remarks=remarks,
        ),
    )
    splits = {
        part: make_split(encoded[part][rows[part]], inputs) for part, inputs in found.inputs.items()
    }
    return Dataset(
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        modality=roles.modality,
        labels=space.names,
        num_labels=space.count,
        fingerprint=combined(splits),
        notes=_notes(splits),
        tokenizer=found.tokenizer,
        vocabulary=found.vocabulary,
        positive=positive,
        space=space,
        remarks=(*noticed, *found.remarks, *_remarks(tables, splits, roles)),
    )


def image_processor(dataset: Dataset) -> Json | None:
    """Return the `preprocessor_config.json` of what was done to a data set's images, if any."""
    return dataset.train.inputs.processor()


def _refuse_options_of_others(config: DataConfig, table: Table, roles: Roles) -> None:
    """Refuse options of other kinds of input that would not merely do nothing."""
    for other in modalities().values():
        for key in () if other.name == roles.modality else other.refused_keys:
            if value := getattr(config, key):
                raise DataError(
                    f"data.{key}: got {value}, but the column {roles.inputs[0]!r} of "
                    f"{table.source} is read as {roles.modality}; drop it, or name the column of "
                    f"{other.plural} as data.{other.column_keys[0]}"
                )


def _with_labels(
    tables: Mapping[str, Table], roles: Roles, brought: Collection[str]
) -> tuple[dict[str, Table], tuple[Remark, ...]]:
    """Leave out splits that nobody asked for and whose labels are kept secret, as of tests."""
    kept, remarks = dict(tables), ()
    for part in brought:
        columns = [tables[part].columns.get(name) for name in roles.labels]
        if any(column is None or all(map(_is_hidden, column)) for column in columns):
            kept.pop(part)
            message = f"{tables[part].source}: has no labels and is not read"
            remarks += (Remark("unread files", message),)
    return kept, remarks


def _is_hidden(label: object) -> bool:
    return label is None or label in (-1, "-1", "")


def _remarks(
    tables: Mapping[str, Table], splits: Mapping[str, Split], roles: Roles
) -> tuple[Remark, ...]:
    found = dict.fromkeys(
        remark
        for table in tables.values()
        for remark in remarks_on(table, (*roles.inputs, *roles.labels))
    )
    for part, split in splits.items():
        empty = sum(not any(row) for row in zip(*split.texts, strict=True))
        if empty:
            message = f"{empty:,} of {len(split):,} rows of {part} have no text; drop them"
            found[Remark("empty texts", message)] = None
    return tuple(found)


def _check_columns(table: Table, roles: Roles) -> None:
    for name in (*roles.inputs, *roles.labels):
        if name not in table.columns:
            what = "labels" if name in roles.labels else "input"
            raise DataError(
                f"{table.source}: has no column {name!r} with the {what}, which the training data "
                f"has; got {list(table.columns)}"
                + (f"; {table.header_doubt}" if table.header_doubt else "")
            )


def _roles(table: Table, config: DataConfig, task: str, head: NamedHead | None) -> Roles:
    """Choose the columns; of several of 0 and 1, those that the model's outputs are named after."""
    if head is not None and not config.labels and all(name in table.columns for name in head.names):
        config = config.model_copy(update={"labels": head.names})
    return find_roles(table, config, task=task)


def _check_readers(table: Table, roles: Roles, readers: Mapping[str, str]) -> None:
    for model, reader in readers.items():
        if not reads(reader, roles.modality):
            held, wanted = modality_named(roles.modality), modality_named(reader)
            raise DataError(
                f"{table.source}: holds {held.plural} in {list(roles.inputs)}, "
                f"expected {wanted.plural}, which {model} reads; give the data's columns "
                "as data.text or data.image, or another model"
            )


def _fewer(rows: np.ndarray, config: DataConfig) -> np.ndarray:
    wanted = config.train_examples
    if wanted is None:
        return rows
    if wanted > len(rows):
        _log.warning("data.train_examples: got %d of %d rows, all are used", wanted, len(rows))
    return rows[subset(len(rows), wanted, seed=config.split_seed)]


def _notes(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count what a reader of results wants to know, and tell it once."""
    notes = {}
    inputs = {part: _inputs(split) for part, split in splits.items()}
    seen = set(inputs["train"])
    for part, split in splits.items():
        notes[f"{part}.rows"] = len(split)
        notes |= {f"{part}.{name}": count for name, count in split.inputs.counts().items()}
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
    return [hash_bytes(example) for example in split.inputs.example_bytes()]
