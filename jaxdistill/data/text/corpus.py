"""Documents to tokens, each with how many bytes of text it stands for and whether it is learned."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.data.reading.chat import FAULTS, Chat, Span, chat_of, check_template, render
from jaxdistill.data.reading.documents import Documents
from jaxdistill.data.text.tokenize import cache_key, load_arrays, load_tokenizer, save_arrays
from jaxdistill.errors import DataError
from jaxdistill.types import Json

_VERSION = 2
_CHUNK = 512

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Ragged documents: document `i` is `ids[offsets[i]:offsets[i + 1]]`.

    A text begins with the token for the beginning, or for the end where there is no other, and ends
    with the one for the end; a chat is what the tokenizer's template makes of it.

    Attributes:
      ids: int32 [total].
      learned: whether a token is to be predicted, bool [total]; never the first of a document.
      sizes: bytes of text that a token stands for, int32 [total]; their sum over a document of text
        is its size.
      offsets: int64 [D + 1].
      silent: chats that were left out because nothing that the assistant says is learned.
      faults: chats by what is odd in them, see `data.chat.Written`.
    """

    ids: np.ndarray
    learned: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    silent: int = 0
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)


def tokenize_documents(documents: Documents, *, folder: Path, cache_dir: Path | None) -> Corpus:
    """Tokenize documents, once: with `cache_dir` the result is kept there.

    Raises:
      DataError: no usable tokenizer in `folder`, no chat template for chats, or no chat in which
        the assistant writes.
    """
    items = documents.items
    texts: Sequence[str] = items
    if documents.chats:
        texts = [json.dumps(chat.content(), sort_keys=True, default=str) for chat in items]
    elif documents.pairs:
        texts = [json.dumps(item) for item in items]
    key = cache_key(texts, None, folder=folder, max_length=0)
    kind = "chats" if documents.chats else "pairs" if documents.pairs else "corpus"
    path = None if cache_dir is None else cache_dir / f"{kind}{_VERSION}-{key}.safetensors"
    stored = None if path is None else load_arrays(path)
    if stored is not None:
        return Corpus(
            stored["ids"],
            stored["learned"].astype(bool),
            stored["sizes"],
            stored["offsets"],
            int(stored["silent"][0]),
            dict(zip(FAULTS, stored["faults"].tolist(), strict=True)),
        )
    tokenizer = load_tokenizer(folder)
    corpus = (
        _tokenize_chats(items, tokenizer, folder, documents.source)
        if documents.chats
        else _tokenize_pairs(items, tokenizer, folder)
        if documents.pairs
        else _tokenize_texts(items, tokenizer)
    )
    if path is not None:
        arrays = {"ids": corpus.ids, "sizes": corpus.sizes, "offsets": corpus.offsets}
        arrays["learned"] = corpus.learned.astype(np.uint8)
        arrays["silent"] = np.array([corpus.silent], np.int64)
        arrays["faults"] = np.array([corpus.faults.get(name, 0) for name in FAULTS], np.int64)
        save_arrays(path, arrays)
    return corpus


def read_back(line: Json, tokenizer: Any) -> list[list[int]]:
    """Return the tokens that a row is read as: a text (`text`), a prompt and its `completion`, or a
    chat (`messages`, …).

    Raises:
      DataError: it is no chat, or the chat template refuses it.
    """
    if "messages" not in line:
        text = line["text"] if "text" in line else line["prompt"] + line["completion"]
        return [_tokenize_texts([text], tokenizer).ids.tolist()]
    chat = chat_of(
        line["messages"],
        tools=line.get("tools"),
        variables=line.get("chat_template_kwargs", {}),
    )
    texts = [text for text, _ in render(tokenizer, chat).texts]
    return _encode(tokenizer, texts, special=False)["input_ids"] if texts else []


def _tokenize_pairs(pairs: Sequence[Any], tokenizer: Any, folder: Path) -> Corpus:
    """Tokenize prompts and completions as one text, of which the prompt is not learned."""
    _check_places(tokenizer, folder, "prompts")
    begins = [len(prompt) for prompt, _ in pairs]
    return _tokenize_texts([prompt + rest for prompt, rest in pairs], tokenizer, begins)


def _tokenize_texts(
    texts: Sequence[str], tokenizer: Any, begins: Sequence[int] | None = None
) -> Corpus:
    """Tokenize texts, of which the characters before `begins` are not learned."""
    end = tokenizer.eos_token_id
    start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids, sizes, lengths, learns = [], [], [], []
    for at in range(0, len(texts), _CHUNK):
        chunk = list(texts[at : at + _CHUNK])
        encoded = _encode(tokenizer, chunk, special=True)
        for number, text in enumerate(chunk):
            row = encoded["input_ids"][number]
            own = _sizes(
                text, encoded["offset_mapping"][number] if tokenizer.is_fast else None, row
            )
            mask = np.ones(len(row), bool)
            if begins is not None:
                places = np.asarray(encoded["offset_mapping"][number], np.int64).reshape(-1, 2)
                # All that follows is learned, too: the end stands nowhere in the text.
                mask = np.logical_or.accumulate(places[:, 0] >= begins[at + number])
            if start is not None and (not row or row[0] != start):
                row, own = [start, *row], np.concatenate([[0], own])
                mask = np.concatenate([[False], mask])
            if end is not None and (len(row) < 2 or row[-1] != end):
                row, own = [*row, end], np.concatenate([own, [0]])
                mask = np.concatenate([mask, [True]])
            if not row:
                continue
            # What the tokenizer drops at the end still has to be read from somewhere.
            own[-1] += len(text.encode()) - own.sum()
            ids.append(np.asarray(row, np.int32))
            sizes.append(own.astype(np.int32))
            lengths.append(len(row))
            learns.append(mask)
    whole, learned = np.concatenate(ids), np.concatenate(learns)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    learned[offsets[:-1]] = False
    return Corpus(whole, learned, np.concatenate(sizes), offsets)


def _tokenize_chats(chats: Sequence[Chat], tokenizer: Any, folder: Path, source: str) -> Corpus:
    check_template(tokenizer, folder)
    _check_places(tokenizer, folder, "chats")
    ids, sizes, learned, silent = [], [], [], 0
    faults: Counter[str] = Counter()
    for at in range(0, len(chats), _CHUNK):
        written = [render(tokenizer, chat) for chat in chats[at : at + _CHUNK]]
        texts = [text for chat in written for text, _ in chat.texts]
        encoded = _encode(tokenizer, texts, special=False) if texts else {}
        rows = zip(encoded.get("input_ids", ()), encoded.get("offset_mapping", ()), strict=True)
        for chat in written:
            heard = False
            for text, spans in chat.texts:
                row, places = next(rows)
                mask = _within(places, spans)
                if not mask.any():
                    continue
                heard = True
                ids.append(np.asarray(row, np.int32))
                sizes.append(_sizes(text, places, row).astype(np.int32))
                learned.append(mask)
            silent += not heard
            faults.update(chat.faults if heard else ())
    if not ids:
        raise DataError(
            f"{source}: got {len(chats)} chats, expected a turn with the role 'assistant' (and not "
            "of weight 0) in some: nothing else is learned from"
        )
    if silent:
        _log.warning("%s: %d chats without an assistant's turn are left out", source, silent)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return Corpus(
        np.concatenate(ids),
        np.concatenate(learned),
        np.concatenate(sizes),
        offsets,
        silent,
        {name: faults[name] for name in FAULTS},
    )


def _check_places(tokenizer: Any, folder: Path, what: str) -> None:
    if not tokenizer.is_fast:
        raise DataError(
            f"{folder}: the tokenizer does not say where its tokens stand in the text, which "
            f"{what} need; it needs a tokenizer.json"
        )


def _within(places: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    """Return which tokens begin inside of the spans, bool [T]; never the first."""
    first, last = np.asarray(places, np.int64).reshape(-1, 2).T  # [T]
    mask = np.zeros(len(first), bool)
    for start, stop in spans:
        mask |= (first >= start) & (first < stop) & (last > first)
    mask[:1] = False
    return mask


def _encode(tokenizer: Any, texts: list[str], *, special: bool) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=special,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )


def _sizes(text: str, places: Sequence[tuple[int, int]] | None, row: Sequence[int]) -> np.ndarray:
    """Return the bytes that each token stands for, int64 [T]: from the end of the one before."""
    if places is None or not row:
        return np.zeros(len(row), np.int64)
    ends = np.maximum.accumulate(np.asarray(places, np.int64).reshape(-1, 2)[:, 1])
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
        ends = np.concatenate([[0], np.cumsum(widths)])[ends]
    return np.diff(ends, prepend=0)
