"""Documents that a language model learns from: files, columns, chats, the standard library."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.config.sources import FILES
from jaxdistill.data.holdout import subset
from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.data.reading.chat import chat_of
from jaxdistill.data.reading.chat_rows import chat_columns, chats_of
from jaxdistill.data.reading.columns import remarks_on
from jaxdistill.data.reading.contents import KINDS, Kind, find_content
from jaxdistill.data.reading.folders import PARTS, find_parts
from jaxdistill.data.reading.sources import (
    HUB_VALIDATION,
    load_hub,
    read_found,
    read_sources,
    split_name,
)
from jaxdistill.data.reading.table import Remark, Table
from jaxdistill.errors import DataError

_FEW = 10  # fewer documents are held out in part, not one by one

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents of one split.

    Attributes:
      items: texts, chats (`data.chat.Chat`), or pairs of texts.
      chats: whether they are chats.
      source: what to call them in messages.
      empty: documents that were left out because there is nothing in them.
      pairs: whether items are pairs of a prompt and the completion that is learned behind it.
      remarks: what was noticed while reading.
    """

    items: Sequence[Any]
    chats: bool
    source: str
    empty: int = 0
    pairs: bool = False
    remarks: tuple[Remark, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


def read_documents(config: DataConfig) -> dict[str, Documents]:
    """Read the documents of every split, `validation` held out of `train` where it is not given.

    Raises:
      DataError: a source is missing, unreadable or malformed, or has no documents.
    """
    found = {part: _documents(table, config) for part, table in _tables(config).items()}
    kinds = {
        part: "chats" if documents.chats else "pairs" if documents.pairs else "texts"
        for part, documents in found.items()
    }
    if len(set(kinds.values())) > 1:
        raise DataError(f"data: got other things in some splits than in others ({kinds})")
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
    if count < _FEW and not (documents.chats or documents.pairs):
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
    if config.source == FILES:
        parts, _ = find_parts(config, documents=True)
        return {part: read_found(found, config, part) for part, found in parts.items()}
    if config.streaming:
        return _streamed(config)
    sources = read_sources(config)
    tables = {part: getattr(sources, part) for part in PARTS}
    return {part: table for part, table in tables.items() if table is not None}


def _streamed(config: DataConfig) -> dict[str, Table]:
    """Documents of a data set that is read only as far as it is needed."""
    wanted = config.train_examples
    if wanted is None:
        raise DataError(
            "data.train_examples: got nothing with data.streaming, expected how many documents to "
            "read"
        )
    loaded, name = load_hub(config, streaming=True)
    named = {part: getattr(config, part) for part in PARTS}  # DataConfig refuses lists here
    train = split_name(named["train"] or "train", loaded, "train", name)
    validation = named["validation"] or next((n for n in HUB_VALIDATION if n in loaded), None)
    fraction = config.validation_fraction
    held = max(1, round(wanted * fraction / (1 - fraction)))
    # Where nothing else is held out, it comes out of what is read beyond the training documents.
    counts = {"train": (train, wanted if validation else wanted + held)}
    for part, split in (("validation", validation), ("test", named["test"])):
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
    columns = None if config.prompt is not None else chat_columns(table, config)
    if columns is not None:
        return _found(table, chats_of(table, config) or [], "chats", columns)
    given = find_content(table, config)
    items: list[object] = []
    for row, value in enumerate(given.values):
        if not (value is None or isinstance(value, KINDS[given.kind])):
            raise DataError(
                f"{table.at(row)}: got {given.columns[0]}={str(value)[:40]!r}, expected "
                f"{'a list of messages' if given.kind == 'chats' else 'text'}"
            )
        if not value or (isinstance(value, str) and not value.strip()):
            continue
        items.append(chat_of(value, where=table.at(row)) if given.kind == "chats" else value)
    return _found(table, items, given.kind, given.columns)


def _found(table: Table, items: Sequence[object], kind: Kind, columns: Sequence[str]) -> Documents:
    if not items:
        raise DataError(f"{table.source}: got no documents with anything in them")
    return Documents(
        items,
        kind == "chats",
        table.source,
        len(table) - len(items),
        pairs=kind == "pairs",
        remarks=remarks_on(table, columns),
    )
