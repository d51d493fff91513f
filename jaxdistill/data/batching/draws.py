"""Which examples make up each batch of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Draw:
    """The examples of one batch.

    Attributes:
      index: an example per row, int64 [rows]; rows that only fill repeat a real one.
      weight: 1 for real rows and 0 for those that fill, float32 [rows].
      shape: rows and tokens per row of the input; 1 token for images and features.
      pattern: where its examples go in the rows, by number, if several share a row.
    """

    index: np.ndarray
    weight: np.ndarray
    shape: tuple[int, int]
    pattern: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """Which of a batch's equal blocks of rows one process holds.

    Attributes:
      blocks: numbers of the blocks, ascending.
      of: blocks of the whole batch.
    """

    blocks: tuple[int, ...] = (0,)
    of: int = 1

    def rows(self, count: int) -> np.ndarray:
        """Return which of `count` rows these are, ascending, int64."""
        size = count // self.of
        return (np.array(self.blocks)[:, None] * size + np.arange(size)).reshape(-1)

    def take(self, values: np.ndarray) -> np.ndarray:
        """Return these rows of an array, or of a batch's table of examples."""
        return values if self.of == 1 else values[self.rows(len(values))]

    def draw(self, draw: Draw) -> Draw:
        """Return the draw of these rows, where each holds one example."""
        index = self.take(draw.index)
        shape = (len(index), draw.shape[1])
        return dataclasses.replace(draw, index=index, weight=self.take(draw.weight), shape=shape)


WHOLE = Part()


def bucket_counts(sizes: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Count the batches of each bucket: what does not fill a batch moves to the next bucket.

    Args:
      sizes: examples per bucket, shortest first.
      rows: rows of a batch of each bucket.
    """
    counts, left = [], 0
    for size, batch in zip(sizes, rows, strict=True):
        whole, left = divmod(size + left, batch)
        counts.append(whole)
    counts[-1] += left > 0
    return counts


def bucket_draws(
    order: np.ndarray, bucket: np.ndarray, buckets: Sequence[int], rows: Sequence[int]
) -> list[Draw]:
    """Cut an order of examples into batches, bucket by bucket, shortest first.

    What is left of a bucket goes first into the next larger one, so that only the very last batch
    can be short; it is filled with rows of weight 0.

    Args:
      order: every example once, int64 [N].
      bucket: index of each example's bucket, int64 [N].
      buckets: lengths, ascending.
      rows: rows of a batch of each bucket.
    """
    grouped = order[np.argsort(bucket[order], kind="stable")]
    ends = np.cumsum(np.bincount(bucket, minlength=len(buckets)))
    draws: list[Draw] = []
    left = grouped[:0]
    for part, length, batch in zip(np.split(grouped, ends[:-1]), buckets, rows, strict=True):
        pool = np.concatenate([left, part])
        whole = len(pool) // batch * batch
        ones = np.ones(batch, np.float32)
        draws += [
            Draw(pool[at : at + batch], ones, (batch, length)) for at in range(0, whole, batch)
        ]
        left = pool[whole:]
    if len(left):
        # Copies of a real row keep every value of the batch ordinary; their weight is 0.
        index = np.concatenate([left, np.repeat(left[:1], rows[-1] - len(left))])
        weight = (np.arange(rows[-1]) < len(left)).astype(np.float32)
        draws.append(Draw(index, weight, (rows[-1], buckets[-1])))
    return draws
