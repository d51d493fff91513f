"""Documents that a language model learns from: files, columns, chats, the standard library."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config import DataConfig
from jaxdistill.data.chat_rows import chats_of
from jaxdistill.data.columns import TEXTS
from jaxdistill.data.formats import format_of, read_file
from jaxdistill.data.holdout import subset
from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.data.sources import (
    HUB_VALIDATION,
    load_hub,
    read_saved,
    read_sources,
    split_name,
)
from jaxdistill.data.table import Table
from jaxdistill.errors import DataError, did_you_mean

PARTS = ("train", "validation", "test")
_FEW = 10  # fewer documents are held out in part, not one by one
_NO_CORPUS = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents of one split.

    Attributes:
      items: texts, or chats (`data.chat.Chat`).
      chats: which of the two.
      source: what to call them in messages.
      empty: documents that were left out because there is nothing in them.
    """

    items: Sequence[Any]
    chats: bool
    source: str
    empty: int = 0

    def __len__(self) -> int:
        return len(self.items)


def read_documents(config: DataConfig) -> dict[str, Documents]:
    """Read the documents of every split, `validation` held out of `train` where it is not given.

    Raises:
      DataError: a source is missing, unreadable or malformed, or has no documents.
    """
    found = {part: _documents(table, config) for part, table in _tables(config).items()}
    kinds = {part: documents.chats for part, documents in found.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(f"data: got chats in some splits and texts in others ({kinds})")
    if "validation" not in found:
        found["train"], found["validation"] = hold_out(
            found["train"], config.validation_fraction, seed=config.split_seed
        )
    wanted = config.train_examples
    if wanted is not None and wanted < len(found["train"]):
        rows = subset(len(found["train"]), wanted, seed=config.split_seed)
        found["train"] = _take(found["train"], rows)
    for part, documents in found.items():
        if documents.empty:
            _log.info("%s: %d empty documents are left out", part, documents.empty)
    return {part: found[part] for part in PARTS if part in found}


def hold_out(documents: Documents, fraction: float, *, seed: int) -> tuple[Documents, Documents]:
    """Draw documents to hold out; of a few long texts, hold out the end of each.

    Raises:
      DataError: there is too little to hold anything out.
    """
    count = len(documents)
    if count < _FEW and not documents.chats:
        return _cut_ends(documents, fraction)
    wanted = round(fraction * count)
    if not 0 < wanted < count:
        raise DataError(
            f"{documents.source}: got {count} documents, expected enough to hold out "
            f"data.validation_fraction={fraction}; give data.validation"
        )
    order = permutation(stream(seed, 0, Purpose.HOLDOUT), count)
    held, kept = np.sort(order[:wanted]), np.sort(order[wanted:])
    return _take(documents, kept), dataclasses.replace(_take(documents, held), empty=0)


def _cut_ends(documents: Documents, fraction: float) -> tuple[Documents, Documents]:
    starts, ends = [], []
    for text in documents.items:
        at = round((1 - fraction) * len(text))
        at = text.rfind("\n", 0, at) + 1 or at
        starts.append(text[:at])
        ends.append(text[at:])
    if not any(map(str.strip, starts)) or not any(map(str.strip, ends)):
        raise DataError(
            f"{documents.source}: got {sum(map(len, documents.items))} characters, expected enough "
            f"to hold out data.validation_fraction={fraction}; give data.validation"
        )
    _log.info("%s: the last %.0f %% of each text is held out", documents.source, 100 * fraction)

    def kept(texts: Sequence[str], empty: int) -> Documents:
        return dataclasses.replace(documents, items=[t for t in texts if t.strip()], empty=empty)

    return kept(starts, documents.empty), kept(ends, 0)


def _take(documents: Documents, rows: np.ndarray) -> Documents:
    return dataclasses.replace(documents, items=[documents.items[row] for row in rows.tolist()])


def _tables(config: DataConfig) -> dict[str, Table]:
    if config.source == "stdlib":
        return {"train": standard_library()}
    if config.source == "files":
        named = {part: getattr(config, part) for part in PARTS}
        return {part: _read(Path(name), config) for part, name in named.items() if name is not None}
    if config.streaming:
        return _streamed(config)
    sources = read_sources(config)
    tables = {part: getattr(sources, part) for part in PARTS}
    return {part: table for part, table in tables.items() if table is not None}


def standard_library() -> Table:
    """The Python standard library's own source files, without its tests."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(folder.rglob("*.py"))
        if not _NO_CORPUS & set(path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"data.source: {folder} holds no source files; use data.source=files")
    return _texts_of(files, str(folder))


def _read(path: Path, config: DataConfig) -> Table:
    """A table, a saved data set, a text file that is one document, or a folder of such files."""
    if path.is_dir():
        if (path / "state.json").is_file():
            return read_saved(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        hidden = [file for file in files if file.relative_to(path).as_posix().startswith(".")]
        files = [file for file in files if file not in hidden]
        if not files:
            raise DataError(f"{path}: got no files, expected a document in each")
        return _texts_of(files, str(path))
    kind = config.format
    if kind == "auto":
        try:
            kind = format_of(path)
        except DataError:
            kind = "text"
        kind = "text" if kind in ("label_text", "npz") else kind
    return read_file(path, kind)


def _texts_of(files: Sequence[Path], source: str) -> Table:
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            _log.info("%s: not text in UTF-8, left out", file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    return Table({"text": texts}, source, unit="document")


def _streamed(config: DataConfig) -> dict[str, Table]:
    """Documents of a data set that is read only as far as it is needed."""
    wanted = config.train_examples
    if wanted is None:
        raise DataError(
            "data.train_examples: got nothing with data.streaming, expected how many documents to "
            "read"
        )
    loaded, name = load_hub(config, streaming=True)
    train = split_name(config.train or "train", loaded, "train", name)
    validation = config.validation or next((n for n in HUB_VALIDATION if n in loaded), None)
    fraction = config.validation_fraction
    held = max(1, round(wanted * fraction / (1 - fraction)))
    # Where nothing else is held out, it comes out of what is read beyond the training documents.
    counts = {"train": (train, wanted if validation else wanted + held)}
    for part, split in (("validation", validation), ("test", config.test)):
        if split is not None:
            counts[part] = (split_name(split, loaded, part, name), held)
    tables = {}
    for part, (split, count) in counts.items():
        rows = list(itertools.islice(loaded[split], count))
        if not rows:
            raise DataError(f"{name}:{split}: got no rows, expected at least one")
        columns = {key: [row.get(key) for row in rows] for key in rows[0]}
        tables[part] = Table(columns, f"{name}:{split}")
    return tables


def _documents(table: Table, config: DataConfig) -> Documents:
    chats = chats_of(table, config)
    items: list[Any] = _texts(table, config) if chats is None else chats
    if not items:
        raise DataError(f"{table.source}: got no documents with anything in them")
    return Documents(items, chats is not None, table.source, len(table) - len(items))


def _texts(table: Table, config: DataConfig) -> list[str]:
    column, texts = _column(table, config), []
    for row, value in enumerate(table.columns[column]):
        if not (value is None or isinstance(value, str)):
            raise DataError(f"{table.at(row)}: got {column}={str(value)[:40]!r}, expected text")
        if value and value.strip():
            texts.append(value)
    return texts


def _column(table: Table, config: DataConfig) -> str:
    found = list(table.columns)
    if config.text is not None:
        if config.text not in found:
            raise DataError(
                f"data.text: {table.source} has no column {config.text!r}, expected one of {found}."
                f"{did_you_mean(config.text, found)}"
            )
        return config.text
    usual = [name for name in TEXTS if name in found]
    if usual:
        return usual[0]
    raise DataError(
        f"{table.source}: got the columns {found}, expected `text` or `messages`; "
        "set data.text or data.messages"
    )
