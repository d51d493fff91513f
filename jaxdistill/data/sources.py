"""Where rows come from: files, folders of images, digits, Hugging Face datasets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config import DataConfig
from jaxdistill.data.formats import arrow_table, format_of, has_part, read_file
from jaxdistill.data.image_folder import read_image_folder
from jaxdistill.data.table import Table
from jaxdistill.errors import DataError, did_you_mean

HUB_VALIDATION = ("validation", "valid", "val", "dev")

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Sources:
    """The tables of a data set; where `validation` is None it is held out of `train`."""

    train: Table
    validation: Table | None
    test: Table | None


def read_sources(config: DataConfig) -> Sources:
    """Read every split the configuration names.

    Raises:
      DataError: a source is missing, unreadable, malformed or empty.
    """
    if config.source == "digits":
        return Sources(_digits(), None, None)
    if config.source == "files":
        return _files(config)
    return _hub(config)


def _files(config: DataConfig) -> Sources:
    assert config.train is not None  # DataConfig refuses `files` without `train`
    tables = {"train": _read(config.train, config, "train")}
    for part in ("validation", "test"):
        name = getattr(config, part)
        if name is not None:
            tables[part] = _read(name, config, part)
    path = Path(config.train)
    whole = _kind(path, config) == "npz"
    if whole and "test" not in tables and "validation" not in tables and has_part(path, "test"):
        _log.info("%s: its x_test and y_test become the test split", path)
        tables["test"] = read_file(path, "npz", part="test")
    return Sources(tables["train"], tables.get("validation"), tables.get("test"))


def _read(name: str, config: DataConfig, part: str) -> Table:
    path = Path(name)
    kind = _kind(path, config)
    if kind == "images":
        return read_image_folder(path, part)
    if kind == "saved":
        return read_saved(path)
    return read_file(path, kind, part=part)


def _kind(path: Path, config: DataConfig) -> str:
    if path.is_dir():
        if config.format in ("auto", "arrow") and (path / "state.json").is_file():
            return "saved"
        if config.format in ("auto", "images"):
            return "images"
    return format_of(path) if config.format == "auto" else config.format


def _digits() -> Table:
    """1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (digits.images / 16.0).astype(np.float32)
    names = {"label": tuple(str(digit) for digit in range(10))}
    return Table({"image": images, "label": digits.target.astype(np.int64)}, "digits", names=names)


def read_saved(path: Path) -> Table:
    """A folder written by `datasets.Dataset.save_to_disk`."""
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path}: not a saved data set: {_reason(error)}") from None
    return _hub_table(loaded, str(path))


def load_hub(config: DataConfig, *, streaming: bool = False) -> tuple[Any, str]:
    """Return the splits of a data set by its name (or folder), and what to call it.

    Raises:
      DataError: it cannot be loaded.
    """
    import datasets

    wanted = config.source if config.subset is None else f"{config.source}/{config.subset}"
    try:
        loaded: Any = datasets.load_dataset(config.source, config.subset, streaming=streaming)
    except Exception as error:
        known = ("files", "digits", "stdlib")
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
    train = split_name(config.train or "train", found, "train", wanted)
    validation = config.validation or next((n for n in HUB_VALIDATION if n in found), None)
    tables = {"train": _hub_table(loaded[train], f"{wanted}:{train}")}
    if validation is not None:
        validation = split_name(validation, found, "validation", wanted)
        tables["validation"] = _hub_table(loaded[validation], f"{wanted}:{validation}")
    if config.test is not None:
        test = split_name(config.test, found, "test", wanted)
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
    arrow = dataset.with_format("arrow")[:]
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
