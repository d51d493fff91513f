"""Documents of a language model, packed into full rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np

from jaxdistill.data.inputs.inputs import Batch, Inputs
from jaxdistill.data.inputs.tokens import padded_places, taken_places


@dataclasses.dataclass(frozen=True)
class PackedRows(Inputs):
    """Rows of several documents; row `i` is `tokens[offsets[i]:offsets[i + 1]]`.

    Attributes:
      tokens: token ids, int32 [total].
      segments: which document of its row each token is of, from 1, int32 [total].
      offsets: where rows begin and end, int64 [N + 1].
      sizes_of_labels: bytes of text that each label stands for, int32 [N, T].
      pad_id: the tokenizer's padding token.
    """

    tokenized: ClassVar[bool] = True
    full_rows: ClassVar[bool] = True

    tokens: np.ndarray
    segments: np.ndarray
    offsets: np.ndarray
    sizes_of_labels: np.ndarray
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def places(self) -> int:
        return self.sizes_of_labels.shape[1]

    def buckets(self, count: int, multiple: int) -> tuple[int, ...]:
        """Return the length of a row: rows are full, so that one fits them all."""
        return (self.places,)

    def take(self, rows: np.ndarray) -> Self:
        places, offsets = taken_places(self.offsets, rows)
        return dataclasses.replace(
            self,
            tokens=self.tokens[places],
            segments=self.segments[places],
            offsets=offsets,
            sizes_of_labels=self.sizes_of_labels[rows],
        )

    def batch(self, index: np.ndarray, length: int) -> Batch:
        """Return the fields of a batch of rows.

        Returns:
          `input_ids`, `attention_mask`, `segment_ids` (0 on padding) and `position_ids` (from 0 in
          each document), int32 [B, length].
        """
        inside, where = padded_places(self.offsets, index, length, len(self.tokens))
        segments = np.where(inside, self.segments[where], 0)
        columns = np.arange(length)  # [T]
        begins = np.diff(segments, axis=1, prepend=0) != 0
        starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
        return {
            "input_ids": np.where(inside, self.tokens[where], np.int32(self.pad_id)),
            "attention_mask": inside.astype(np.int32),
            "segment_ids": segments,
            "position_ids": np.where(inside, columns - starts, 0).astype(np.int32),
        }

    def labelled(self, labels: np.ndarray, weight: np.ndarray) -> Batch:
        """Return `labels` int32 [B, T] (the next token, -1 for none), `loss_mask` and `weight`.

        `loss_mask`, float32 [B, T], is 1 where there is a next token to predict in a row that
        counts.
        """
        plain = super().labelled(labels, weight)
        return {**plain, "loss_mask": (labels >= 0) * weight[:, None]}

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """Return the tokens to predict and the bytes they stand for, int64 [N, 2]."""
        return np.stack([(labels >= 0).sum(1), self.sizes_of_labels.sum(1)], axis=1)

    def example_bytes(self) -> Iterator[bytes]:
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            # As of a text whose tokens are all of type 0: caches of before know rows by that.
            yield self.tokens[start:end].tobytes() + bytes(end - start)

    def hashed(self, *, subset: bool) -> tuple[np.ndarray, ...]:
        return (
            (self.tokens, self.segments) if subset else (self.tokens, self.segments, self.offsets)
        )

    def row_shape(self, length: int) -> tuple[int, ...]:
        return (length,)

    def token_ids(self) -> np.ndarray:
        return self.tokens

    def renumbered(self, used: np.ndarray) -> Self:
        tokens = np.searchsorted(used, self.tokens).astype(np.int32)
        return dataclasses.replace(self, tokens=tokens)
