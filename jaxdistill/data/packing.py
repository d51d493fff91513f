"""Several examples per row: one arrangement that fits every batch of every epoch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.data.plan import Draw
from jaxdistill.data.split import Split
from jaxdistill.errors import ConfigError

_CANDIDATES = 64


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Where each example of a batch goes; the same for all batches.

    The examples, sorted by length, are cut into as many blocks as a part of a batch has places, and
    every part takes one example from each block. The rows are made for the longest of each block:
    every batch fits, all batches have the same shape, and the lengths in them differ little.

    A part is what one microbatch computes on one device. Row `r` of a batch belongs to microbatch
    `r % accumulate`, and devices take contiguous rows; so do the examples.

    Attributes:
      steps: batches per epoch.
      shape: rows and tokens per row of a batch.
      rows: row of each example of a batch, int64 [N].
      segments: which example of its row it is, counted from 1, int32 [N].
      blocks: examples in each block, longest block first, int64 [N / parts].
      accumulate: microbatches per batch.
      shards: devices along the batch.
    """

    steps: int
    shape: tuple[int, int]
    rows: np.ndarray
    segments: np.ndarray
    blocks: np.ndarray
    accumulate: int
    shards: int


def arrange(
    lengths: np.ndarray, *, batch_size: int, max_length: int, accumulate: int, shards: int
) -> Arrangement:
    """Find rows for `batch_size` examples such that the fewest slots stay empty.

    Args:
      lengths: tokens per example, int64 [N].
      batch_size: examples per batch, a multiple of `accumulate * shards`.
      max_length: the longest row allowed.
      accumulate: microbatches per batch.
      shards: devices along the batch.
    """
    parts = accumulate * shards
    places = batch_size // parts
    steps = -(-len(lengths) // batch_size)
    # Absent examples all belong to one batch, dealt over its parts, shortest blocks first.
    absent = steps * batch_size - len(lengths)
    missing = np.clip(absent - np.arange(places)[::-1] * parts, 0, parts)
    blocks = steps * parts - missing  # [places]
    starts = np.cumsum(blocks) - blocks
    descending = np.sort(lengths)[::-1]
    longest = np.where(blocks > 0, descending[np.minimum(starts, len(lengths) - 1)], 0)
    span = max_length - int(descending[0]) + 1
    candidates = int(descending[0]) + np.unique(
        np.linspace(0, span - 1, min(span, _CANDIDATES)).astype(np.int64)
    )
    packed = [(first_fit(longest, int(length)), int(length)) for length in candidates]
    row, length = min(packed, key=lambda found: ((found[0].max() + 1) * found[1], found[1]))
    count = int(row.max()) + 1
    # [shards, places, accumulate]: the order of examples in a batch.
    microbatch = np.arange(accumulate)
    shard = np.arange(shards)[:, None, None] * count * accumulate
    rows = (shard + row[:, None] * accumulate + microbatch).reshape(-1)
    segment = np.array([int((row[:place] == row[place]).sum()) + 1 for place in range(places)])
    segments = np.broadcast_to(segment[:, None], (shards, places, accumulate)).reshape(-1)
    return Arrangement(
        steps=steps,
        shape=(count * parts, length),
        rows=rows,
        segments=segments.astype(np.int32),
        blocks=blocks,
        accumulate=accumulate,
        shards=shards,
    )


def first_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Put descending sizes into the first row with room (Johnson, 1973); return rows, int64 [N]."""
    free = np.full(len(sizes), capacity, np.int64)
    rows = np.zeros(len(sizes), np.int64)
    for place, size in enumerate(sizes.tolist()):
        rows[place] = np.argmax(free >= size)
        free[rows[place]] -= size
    return rows


def pack_draws(lengths: np.ndarray, arrangement: Arrangement, seed: int, epoch: int) -> list[Draw]:
    """Deal the examples of one epoch to its batches: one of each block to each part."""
    plan, parts = arrangement, arrangement.accumulate * arrangement.shards
    order = permutation(stream(seed, epoch, Purpose.ORDER), len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    block = np.repeat(np.arange(len(plan.blocks)), plan.blocks)
    # Sorted by block and at random inside: equal lengths may lie in two blocks, hence both orders.
    bits = stream(seed, epoch, Purpose.BATCHES)
    key = permutation(bits, len(order))
    order = order[np.lexsort((key, block))]
    dealt = np.full((plan.steps * parts, len(plan.blocks)), -1, np.int64)
    ends = np.cumsum(plan.blocks)
    for place, part in enumerate(np.split(order, ends[:-1])):
        dealt[: len(part), place] = part
    places = len(plan.blocks)
    dealt = dealt.reshape(plan.steps, plan.shards, plan.accumulate, places).swapaxes(2, 3)
    dealt = dealt.reshape(plan.steps, -1)[permutation(bits, plan.steps)]
    weights = (dealt >= 0).astype(np.float32)
    return [
        Draw(np.maximum(index, 0), weight, plan.shape)
        for index, weight in zip(dealt, weights, strict=True)
    ]


def pack_batch(split: Split, draw: Draw, arrangement: Arrangement) -> dict[str, np.ndarray]:
    """Write the tokens of a batch's examples one after another into their rows.

    Returns:
      `input_ids`, `attention_mask`, `token_type_ids`, `segment_ids` (0 on padding) and
      `position_ids`, int32 [R, T]; `pool_rows` (counted inside the microbatch) and `pool_columns`,
      int32 [N], where each example's first token is; `labels` and `weight`, [N].
    """
    assert split.tokens is not None  # packing is for text
    assert split.token_types is not None
    assert split.offsets is not None
    rows, width = draw.shape
    lengths = np.where(draw.weight > 0, split.lengths[draw.index], 0)  # [N]
    by_row = np.lexsort((arrangement.segments, arrangement.rows))
    ends = np.cumsum(lengths[by_row])
    before = np.empty_like(ends)  # tokens of the batch before each example
    before[by_row] = ends - lengths[by_row]
    first = np.full(rows, len(lengths) and ends[-1], np.int64)
    np.minimum.at(first, arrangement.rows, before)
    columns = before - first[arrangement.rows]  # [N]
    total = int(ends[-1])
    inside = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # [tokens]
    source = np.repeat(split.offsets[draw.index], lengths) + inside
    target = np.repeat(arrangement.rows * width + columns, lengths) + inside

    def spread(values: np.ndarray, fill: int = 0) -> np.ndarray:
        grid = np.full(rows * width, fill, np.int32)
        grid[target] = values
        return grid.reshape(rows, width)

    segments = spread(np.repeat(arrangement.segments, lengths))
    return {
        "input_ids": spread(split.tokens[source], split.pad_id),
        "attention_mask": (segments > 0).astype(np.int32),
        "token_type_ids": spread(split.token_types[source]),
        "segment_ids": segments,
        "position_ids": spread(inside),
        "pool_rows": (arrangement.rows // arrangement.accumulate).astype(np.int32),
        # An absent example reads some token of its row; its weight is 0.
        "pool_columns": np.minimum(columns, width - 1).astype(np.int32),
        "labels": split.labels[draw.index],
        "weight": draw.weight.copy(),
    }


def pack_plan(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    max_length: int,
    tokens_per_batch: int | None,
    accumulate: int,
    shards: int,
) -> tuple[Arrangement, Callable[[int], Sequence[Draw]]]:
    """Return the arrangement of a split, and the draws of each epoch.

    Raises:
      ConfigError: the data has no tokens, or a token budget is given too.
    """
    if split.tokens is None:
        raise ConfigError("data.layout: got 'pack' for data without tokens, expected 'bucket'")
    if tokens_per_batch is not None:
        raise ConfigError(
            f"data.tokens_per_batch: got {tokens_per_batch} with data.layout=pack, expected none; "
            "packed batches have train.batch_size examples"
        )
    arrangement = arrange(
        split.lengths,
        batch_size=batch_size,
        max_length=max_length,
        accumulate=accumulate,
        shards=shards,
    )

    @functools.lru_cache(maxsize=2)
    def draws(epoch: int) -> Sequence[Draw]:
        return pack_draws(split.lengths, arrangement, seed, epoch)

    return arrangement, draws
