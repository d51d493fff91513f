"""A configuration to the packed rows that a language model learns from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from jaxdistill.config.schema import DataConfig, TokenizerConfig
from jaxdistill.data.batching.pack_documents import pack_rows
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.inputs.reading import Found, Source
from jaxdistill.data.reading.documents import Documents, read_documents
from jaxdistill.data.split import Split, combined, make_split
from jaxdistill.data.text.bpe import LANGUAGE, choose_tokenizer
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.data.text.tokenize import check_row_limits, load_tokenizer, padding_id
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")


def prepare_language(
    config: DataConfig,
    *,
    tokenizer_folder: Path | None,
    positions: Mapping[str, int],
    folder: Path,
) -> Dataset:
    """Read, tokenize and pack the documents a configuration names.

    Args:
      config: sources, tokenizer and limits.
      tokenizer_folder: Hugging Face folder of the teacher (or student), if there is one.
      positions: rows of the position tables, by who has them.
      folder: where tokenizers, and tokens if `data.cache`, are kept between runs.

    Raises:
      DataError: one line that names the source, what it holds and what was expected.
    """
    if config.max_length < 2:
        raise DataError(
            f"data.max_length: got {config.max_length}, expected at least 2 tokens in a row"
        )
    check_row_limits(config.max_length, positions)
    documents = read_documents(config)
    source = Source((), config, tokenizer=tokenizer_folder, row_limits=positions, cache=folder)
    found = read_rows(documents, source)
    splits = {part: make_split(found.labels[part], found.inputs[part]) for part in found.inputs}
    for part, read in documents.items():
        _log.info("%s: %s", part, _told(read, splits[part]))
    return Dataset(
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        modality="documents",
        labels=None,
        num_labels=0,
        fingerprint=combined(splits),
        notes={**found.notes, **_seen(documents)},
        tokenizer=found.tokenizer,
        vocabulary=found.vocabulary,
        remarks=found.remarks,
    )


def read_rows(documents: Mapping[str, Documents], source: Source) -> Found:
    """Tokenize the documents of every split and pack them into rows, which bring their labels.

    Raises:
      DataError: no tokenizer can be had, or a split has nothing to predict.
    """
    config = source.config
    assert source.cache is not None  # a run keeps tokenizers in its work directory
    tokenizer = _tokenizer(config, documents["train"], source.tokenizer, source.cache)
    loaded = load_tokenizer(tokenizer)
    pad_id = padding_id(loaded, tokenizer)
    inputs, labels, notes = {}, {}, {}
    for part, read in documents.items():
        corpus = tokenize_documents(
            read, folder=tokenizer, cache_dir=source.cache if config.cache else None
        )
        labels[part], rows = pack_rows(corpus, config.max_length, pad_id)
        if not len(rows):
            raise DataError(
                f"{read.source}: got {len(read)} documents of {part} with nothing to predict, "
                "expected two tokens in one"
            )
        inputs[part] = rows
        notes |= {
            f"{part}.rows": len(read),
            f"{part}.cut": 0,
            f"{part}.empty": read.empty,
            f"{part}.silent": corpus.silent,
            **{f"{part}.chats.{name}": count for name, count in corpus.faults.items()},
            f"{part}.tokens": int(rows.lengths.sum()),
            f"{part}.bytes": int(corpus.sizes[corpus.learned].sum()),
        }
    remarks = tuple(dict.fromkeys(r for read in documents.values() for r in read.remarks))
    return Found(inputs, remarks, tokenizer, len(loaded), labels=labels, notes=notes)


def _tokenizer(config: DataConfig, documents: Documents, own: Path | None, folder: Path) -> Path:
    if documents.chats and isinstance(config.tokenizer, TokenizerConfig):
        raise DataError(
            "data.tokenizer: got one to train on chats, expected a folder whose tokenizer has "
            "a chat template; or name columns of text: data.text, or data.prompt and "
            "data.completion, which are joined as they are"
        )
    items = documents.items
    return choose_tokenizer(
        config.tokenizer,
        own,
        texts=lambda: [a + b for a, b in items] if documents.pairs else items,
        source=documents.source,
        folder=folder,
        specials=LANGUAGE,
    )


def _told(documents: Documents, split: Split) -> str:
    tokens, slots = int(split.lengths.sum()), split.labels.size
    return (
        f"{len(documents):,} documents, {tokens:,} tokens in {len(split):,} rows of "
        f"{split.labels.shape[1]}, {100 * tokens / slots:.2f} % of them real"
    )


def _seen(documents: Mapping[str, Documents]) -> dict[str, int]:
    """Count the held-out documents that are also in training."""
    known = {str(item) for item in documents["train"].items}
    return {"train.repeated": len(documents["train"]) - len(known)} | {
        f"{part}.seen": sum(str(item) in known for item in read.items)
        for part, read in documents.items()
        if part != "train"
    }
