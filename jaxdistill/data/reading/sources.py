"""Where rows come from: files, folders of images, digits, Hugging Face datasets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import DataConfig
from jaxdistill.config.sources import FILES, Source, sources
from jaxdistill.data.reading.folders import PARTS, Found, find_parts
from jaxdistill.data.reading.formats import arrow_table, has_part, read_file, validated
from jaxdistill.data.reading.image_folder import read_image_folder
from jaxdistill.data.reading.raw import is_text, read_content, read_text
from jaxdistill.data.reading.table import Remark, Table, concatenate, listed
from jaxdistill.errors import DataError, did_you_mean

HUB_VALIDATION = ("validation", "valid", "val", "dev")

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Sources:
    """The tables of a data set; where `validation` is None it is held out of `train`."""

    train: Table
    validation: Table | None
    test: Table | None
    brought: frozenset[str] = frozenset()
    """Splits that nobody named: a folder or a file brought them."""


def read_sources(config: DataConfig) -> Sources:
    """Read every split the configuration names.

    Raises:
      DataError: a source is missing, unreadable, malformed or empty.
    """
    if config.source == FILES:
        return _files(config)
    source = sources().get(config.source)
    if source is None:
        return _hub(config)
    tables = read_source(source)
    return Sources(tables["train"], tables.get("validation"), tables.get("test"))


def read_source(source: Source) -> dict[str, Table]:
    """Read what a name alone stands for, by split.

    Raises:
      DataError: it is no mapping of splits to columns of equal length.
    """
    found = function_of(source.read)()
    where = f"data.source={source.name}"
    if not isinstance(found, Mapping) or "train" not in found or set(found) - set(PARTS):
        got = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise DataError(f"{where}: got {got}, expected columns for 'train' and others of {PARTS}")
    return {part: _table(source, part, columns) for part, columns in found.items()}


def _table(source: Source, part: str, columns: object) -> Table:
    if isinstance(columns, Table):
        return columns
    where = f"{source.name}:{part}"
    if not isinstance(columns, Mapping) or not columns:
        raise DataError(f"{where}: got {type(columns).__name__}, expected values by column")
    counts = {str(name): len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise DataError(f"{where}: got columns of {counts} rows, expected as many in each, and any")
    names = {} if source.labels is None or "label" not in columns else {"label": source.labels}
    return Table(dict(columns), where, names=names)


def _files(config: DataConfig) -> Sources:
    found, brought = find_parts(config, documents=False)
    tables: dict[str, Table] = {part: read_found(f, config, part) for part, f in found.items()}
    train = found["train"]
    if train.kind == "npz" and train.whole and set(tables) == {"train"}:
        path = train.files[0]
        if has_part(path, "test"):
            _log.info("%s: its x_test and y_test become the test split", path)
            tables["test"] = read_file(path, "npz", part="test")
    return Sources(tables["train"], tables.get("validation"), tables.get("test"), brought)


def read_found(found: Found, config: DataConfig, part: str) -> Table:
    """Read the files of one split into one table.

    Raises:
      DataError: one is missing, unreadable, malformed, empty or of other columns than the rest.
    """
    if found.kind == "images":
        return read_image_folder(found.files[0], part)
    if found.kind == "saved":
        return read_saved(found.files[0])
    if found.kind in ("text", "class_texts") and not found.whole:
        table = _texts(found, config.encoding)
    else:
        tables = [
            read_file(file, found.kind, part=part, names=config.columns, encoding=config.encoding)
            for file in found.files
        ]
        optional = found.kind == "jsonl"
        table = tables[0] if found.whole else concatenate(tables, found.source, optional=optional)
    return dataclasses.replace(table, remarks=(*found.remarks, *table.remarks))


def _texts(found: Found, encoding: str | None) -> Table:
    """A text in each of many files, whose folder names its label where it has one."""
    texts, files, left_out = [], [], []
    for file in found.files:
        content = read_content(file)
        if encoding is None and not is_text(content):
            left_out.append(file.name)
            continue
        texts.append(read_text(content, str(file), encoding))
        files.append(file)
    remarks: tuple[Remark, ...] = ()
    if left_out:
        message = (
            f"{len(left_out):,} of {len(found.files):,} files in {found.source} are not text in "
            f"UTF-8 and not read: {listed(left_out)}; if they are text set data.encoding, such as "
            "latin-1"
        )
        remarks = (Remark("unread files", message),)
    columns: dict[str, list[str]] = {"text": texts}
    if found.kind == "class_texts":
        columns["label"] = [file.parent.name for file in files]
    return Table(
        columns,
        found.source,
        numbers=np.ones(len(files), np.int64),
        unit="document",
        origins=list(map(str, files)),
        remarks=remarks,
    )


def read_saved(path: Path) -> Table:
    """A folder written by `datasets.Dataset.save_to_disk`, or a split of a `DatasetDict`."""
    return _hub_table(_load_saved(path), str(path))


def _load_saved(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path}: not a saved data set: {_reason(error)}") from None


def load_hub(config: DataConfig, *, streaming: bool = False) -> tuple[Any, str]:
    """Return the splits of a data set by its name (or folder), and what to call it.

    Raises:
      DataError: it cannot be loaded.
    """
    import datasets

    wanted = config.source if config.subset is None else f"{config.source}/{config.subset}"
    if (Path(config.source) / "dataset_dict.json").is_file():
        # `load_dataset` refuses what `save_to_disk` wrote.
        return _load_saved(Path(config.source)), wanted
    try:
        loaded: Any = datasets.load_dataset(config.source, config.subset, streaming=streaming)
    except Exception as error:
        known = (FILES, *sources())
        raise DataError(
            f"data.source: cannot load {wanted!r} as a Hugging Face dataset: {_reason(error)};"
            f" check the name and the network, or use files with data.source=files data.train=PATH."
            f"{did_you_mean(config.source, known)}"
        ) from None
    return loaded, wanted


def _hub(config: DataConfig) -> Sources:
    """A data set by its name (or folder), as `datasets.load_dataset` finds it."""
    loaded, wanted = load_hub(config)
    found = list(loaded)
    named = {part: getattr(config, part) for part in PARTS}  # DataConfig refuses lists here
    train = split_name(named["train"] or "train", found, "train", wanted)
    validation = named["validation"] or next((n for n in HUB_VALIDATION if n in found), None)
    tables = {"train": _hub_table(loaded[train], f"{wanted}:{train}")}
    if validation is not None:
        validation = split_name(validation, found, "validation", wanted)
        tables["validation"] = _hub_table(loaded[validation], f"{wanted}:{validation}")
    if named["test"] is not None:
        test = split_name(named["test"], found, "test", wanted)
        tables["test"] = _hub_table(loaded[test], f"{wanted}:{test}")
    return Sources(tables["train"], tables.get("validation"), tables.get("test"))


def split_name(name: str, found: Iterable[str], part: str, wanted: str) -> str:
    if name not in found:
        raise DataError(
            f"data.{part}: {wanted!r} has no split {name!r}, expected one of {sorted(found)}."
            f"{did_you_mean(name, found)}"
        )
    return name


def _hub_table(dataset: Any, source: str) -> Table:
    if not len(dataset):
        raise DataError(f"{source}: got no rows, expected at least one")
    # Without decoding, images stay the bytes they were stored as until they are needed.
    arrow = validated(dataset.with_format("arrow")[:], source)
    table = arrow_table(arrow, source)
    names = {}
    for name, feature in dataset.features.items():
        inner = getattr(feature, "feature", feature)
        if type(inner).__name__ == "ClassLabel":
            names[name] = tuple(inner.names)
    return dataclasses.replace(table, names={**table.names, **names})


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
