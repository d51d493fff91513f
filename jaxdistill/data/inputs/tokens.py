"""Texts, or pairs of them, as rows of tokens: how they are read and batched."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np

from jaxdistill.data.inputs.inputs import Batch, Inputs, Ragged
from jaxdistill.data.inputs.reading import Found, Source
from jaxdistill.data.reading.table import Table
from jaxdistill.data.text.bpe import ENCODER, choose_tokenizer
from jaxdistill.data.text.tokenize import check_row_limits, load_tokenizer, tokenize
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Tokens(Inputs):
    """Texts or pairs of texts; example `i` is `tokens[offsets[i]:offsets[i + 1]]`.

    Attributes:
      tokens: token ids, int32 [total].
      token_types: type of each token, uint8 [total].
      offsets: where examples begin and end, int64 [N + 1].
      pad_id: the tokenizer's padding token.
      texts: the texts as read, a column or two.
      cut: rows that were longer than the limit.
    """

    tokenized: ClassVar[bool] = True

    tokens: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    pad_id: int = 0
    texts: tuple[Sequence[str], ...] = ()
    cut: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Self:
        places, offsets = taken_places(self.offsets, rows)
        return dataclasses.replace(
            self,
            tokens=self.tokens[places],
            token_types=self.token_types[places],
            offsets=offsets,
            texts=tuple([column[row] for row in rows] for column in self.texts),
        )

    def batch(self, index: np.ndarray, length: int) -> Batch:
        """Return `input_ids`, `attention_mask` and `token_type_ids`, int32 [B, length]."""
        inside, where = padded_places(self.offsets, index, length, len(self.tokens))
        types = np.where(inside, self.token_types[where], np.uint8(0))
        return {
            "input_ids": np.where(inside, self.tokens[where], np.int32(self.pad_id)),
            "attention_mask": inside.astype(np.int32),
            "token_type_ids": types.astype(np.int32),
        }

    def example_bytes(self) -> Iterator[bytes]:
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.tokens[start:end].tobytes() + self.token_types[start:end].tobytes()

    def hashed(self, *, subset: bool) -> tuple[np.ndarray, ...]:
        return (self.tokens,) if subset else (self.tokens, self.token_types, self.offsets)

    def sizes(self) -> Mapping[str, int]:
        return {"token_types": 1 + int(self.token_types.max(initial=0))}

    def row_shape(self, length: int) -> tuple[int, ...]:
        return (length,)

    def ragged(self) -> Ragged:
        fields = {"input_ids": (self.tokens, self.pad_id), "token_type_ids": (self.token_types, 0)}
        return Ragged(fields, self.offsets)

    def token_ids(self) -> np.ndarray:
        return self.tokens

    def renumbered(self, used: np.ndarray) -> Self:
        tokens = np.searchsorted(used, self.tokens).astype(np.int32)
        return dataclasses.replace(self, tokens=tokens)

    def counts(self) -> Mapping[str, int]:
        return {"cut": self.cut}


def taken_places(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of every token of the examples `rows`, and the offsets these then have."""
    lengths = np.diff(offsets)[rows]
    ends = np.cumsum(lengths)
    # Each token's place: its example's start, then one further for each token of the example.
    starts = np.repeat(offsets[rows] - (ends - lengths), lengths)
    return starts + np.arange(ends[-1]), np.concatenate([[0], ends])


def padded_places(
    offsets: np.ndarray, index: np.ndarray, length: int, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which columns of a batch are within its examples, and where their tokens are.

    Args:
      offsets: where examples begin and end, int64 [N + 1].
      index: the examples of the batch, int64 [B].
      length: T, tokens of a row.
      total: tokens of all examples.

    Returns:
      bool and int64 [B, T].
    """
    columns = np.arange(length)  # [T]
    starts = offsets[index]
    inside = columns < (offsets[index + 1] - starts)[:, None]  # [B, T]
    # Padding may point past the last token of the split; what it reads there is masked.
    return inside, np.minimum(starts[:, None] + columns, total - 1)


def read_tokens(tables: Mapping[str, Table], source: Source) -> Found:
    """Tokenize the texts of every split.

    Raises:
      DataError: a text is missing, no tokenizer can be had, or rows are longer than a model reads.
    """
    config, training = source.config, tables["train"]
    check_row_limits(config.max_length, source.row_limits)
    folder = choose_tokenizer(
        config.tokenizer,
        source.tokenizer,
        texts=lambda: [text for name in source.columns for text in read_texts(training, name)],
        source=training.source,
        folder=source.cache,
        specials=ENCODER,
    )
    inputs = {}
    for part, table in tables.items():
        texts = tuple(read_texts(table, name) for name in source.columns)
        found = tokenize(
            texts[0],
            texts[1] if len(texts) > 1 else None,
            folder=folder,
            max_length=config.max_length,
            cache_dir=source.cache if config.cache else None,
        )
        inputs[part] = Tokens(
            tokens=found.ids,
            token_types=found.types,
            offsets=found.offsets,
            pad_id=found.pad_id,
            texts=texts,
            cut=found.cut,
        )
        if found.cut:
            share, limit = 100 * found.cut / len(table), config.max_length
            message = "%s: %d rows (%.2f %%) cut to data.max_length=%d tokens"
            _log.info(message, part, found.cut, share, limit)
    return Found(inputs, tokenizer=folder, vocabulary=len(load_tokenizer(folder)))


def read_texts(table: Table, column: str) -> list[str]:
    """Return a column of texts without the white space around them.

    Raises:
      DataError: a row holds something else than text.
    """
    texts = []
    for row, value in enumerate(table.columns[column]):
        if not isinstance(value, str):
            raise DataError(f"{table.at(row)}: got {column}={value!r}, expected text; drop the row")
        texts.append(value.strip())
    return texts
