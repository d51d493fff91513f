"""Several examples per row: one arrangement that fits every batch of every epoch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxdistill.data.batching.draws import WHOLE, Draw, Part
from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.data.split import Split
from jaxdistill.errors import ConfigError

_CANDIDATES = 64  # row lengths tried on a sample of an epoch
_FINALISTS = 4  # of these, tried on all of it
_SAMPLE = 128
_ATTENTION = 1000.0


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Where the examples of every batch of an epoch go; all batches have the same shape.

    Each batch is made for examples of certain lengths, and takes any that have them: an epoch only
    draws which of the equally long ones. The examples, sorted by length, are cut into as many
    blocks as a part of a batch has places. Every part takes one example from each block, the
    longest going where the fewest tokens are, so that all parts hold nearly as many tokens.

    A part is what one microbatch computes on one device. Row `r` of a batch belongs to microbatch
    `r % accumulate`, and devices take contiguous rows; so do the examples.

    Attributes:
      lengths: tokens of the example at each place of each batch, 0 for none, int64 [steps, N].
      rows: row of each example, int64 [steps, N].
      segments: which example of its row it is, counted from 1, int32 [steps, N].
      shape: rows and tokens per row of a batch.
      accumulate: microbatches per batch.
      shards: devices along the batch.
    """

    lengths: np.ndarray
    rows: np.ndarray
    segments: np.ndarray
    shape: tuple[int, int]
    accumulate: int
    shards: int

    @property
    def steps(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.lengths)


def arrange(lengths: np.ndarray, *, batch_size: int, accumulate: int, shards: int) -> Arrangement:
    """Find places for all examples such that the fewest slots stay empty.

    Rows may be longer than the longest example, up to twice: positions count within an example.

    Args:
      lengths: tokens per example, int64 [N].
      batch_size: examples per batch, a multiple of `accumulate * shards`.
      accumulate: microbatches per batch.
      shards: devices along the batch.
    """
    parts = accumulate * shards
    dealt = _deal(lengths, batch_size // parts, parts)  # [steps * parts, places]
    longest = int(lengths.max())
    candidates = np.unique(np.linspace(longest, 2 * longest, _CANDIDATES).astype(np.int64))
    sample = dealt[np.linspace(0, len(dealt) - 1, min(len(dealt), _SAMPLE)).astype(np.int64)]

    def cost(dealt: np.ndarray, length: int) -> float:
        rows = max(int(first_fit(part, length).max()) for part in dealt) + 1
        # Attention over a row grows with its length; a thousand tokens double a layer's work.
        return rows * length * (1 + length / _ATTENTION)

    ranked = sorted(candidates.tolist(), key=lambda length: cost(sample, length))
    length = min(ranked[:_FINALISTS], key=lambda length: cost(dealt, length))
    row = np.stack([first_fit(part, length) for part in dealt])  # [steps * parts, places]
    count = int(row.max()) + 1
    segment = np.zeros_like(row)
    for place in range(row.shape[1]):
        earlier = (row[:, :place] == row[:, place, None]) & (dealt[:, :place] > 0)
        segment[:, place] = earlier.sum(1) + 1
    part = np.arange(len(dealt)) % parts
    shard, microbatch = part // accumulate, part % accumulate
    whole = (shard * count * accumulate + microbatch)[:, None] + row * accumulate

    def in_order(table: np.ndarray) -> np.ndarray:
        """Reorder `[steps * parts, places]` to the order of a batch's examples, `[steps, N]`."""
        places = table.reshape(-1, shards, accumulate, table.shape[1]).swapaxes(2, 3)
        return places.reshape(-1, batch_size)

    return Arrangement(
        lengths=in_order(dealt),
        rows=in_order(whole),
        segments=in_order(segment).astype(np.int32),
        shape=(count * parts, length),
        accumulate=accumulate,
        shards=shards,
    )


def _deal(lengths: np.ndarray, places: int, parts: int) -> np.ndarray:
    """Deal lengths to the parts of an epoch, descending in each: int64 `[steps * parts, places]`.

    Absent examples all belong to the last batch, dealt over its parts, shortest blocks first.
    """
    steps = -(-len(lengths) // (places * parts))
    absent = steps * parts * places - len(lengths)
    missing = np.clip(absent - np.arange(places)[::-1] * parts, 0, parts)
    blocks = np.split(np.sort(lengths)[::-1], np.cumsum(steps * parts - missing)[:-1])
    dealt = np.zeros((steps * parts, places), np.int64)
    total = np.zeros(steps * parts, np.int64)
    for place, block in enumerate(blocks):
        emptiest = np.argsort(total[: len(block)], kind="stable")
        dealt[emptiest, place] = block
        total += dealt[:, place]
    return dealt


def first_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Put descending sizes into the first row with room (Johnson, 1973); return rows, int64 [N]."""
    free = np.full(len(sizes), capacity, np.int64)
    rows = np.zeros(len(sizes), np.int64)
    for place, size in enumerate(sizes.tolist()):
        rows[place] = np.argmax(free >= size)
        free[rows[place]] -= size
    return rows


def pack_draws(lengths: np.ndarray, arrangement: Arrangement, seed: int, epoch: int) -> list[Draw]:
    """Draw which of the equally long examples takes each place, and the order of the batches."""
    slots = arrangement.lengths.reshape(-1)
    order = permutation(stream(seed, epoch, Purpose.ORDER), len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    index = np.zeros(len(slots), np.int64)
    absent = len(slots) - len(lengths)
    index[np.argsort(slots, kind="stable")[absent:]] = order
    index = index.reshape(arrangement.lengths.shape)
    weights = (arrangement.lengths > 0).astype(np.float32)
    steps = permutation(stream(seed, epoch, Purpose.BATCHES), arrangement.steps)
    return [Draw(index[step], weights[step], arrangement.shape, int(step)) for step in steps]


def pack_batch(
    split: Split, draw: Draw, arrangement: Arrangement, part: Part = WHOLE
) -> dict[str, np.ndarray]:
    """Write the tokens of a batch's examples one after another into their rows.

    A part of a batch has the rows and the examples of its devices; `pool_rows` count in the whole.

    Returns:
      `input_ids`, `attention_mask`, `token_type_ids`, `segment_ids` (0 on padding) and
      `position_ids`, int32 [R, T]; `pool_rows` (counted inside the microbatch) and `pool_columns`,
      int32 [N], where each example's first token is; `labels` and `weight`, [N].
    """
    ragged = split.inputs.ragged()
    own, width = part.rows(draw.shape[0]), draw.shape[1]
    rows, index = len(own), part.take(draw.index)
    lengths = part.take(arrangement.lengths[draw.pattern])  # [N]
    segment = part.take(arrangement.segments[draw.pattern])  # [N]
    whole_row = part.take(arrangement.rows[draw.pattern])  # [N]
    row = np.searchsorted(own, whole_row)
    by_row = np.lexsort((segment, row))
    ends = np.cumsum(lengths[by_row])
    before = np.empty_like(ends)  # tokens of the batch before each example
    before[by_row] = ends - lengths[by_row]
    first = np.full(rows, len(lengths) and ends[-1], np.int64)
    np.minimum.at(first, row, before)
    columns = before - first[row]  # [N]
    total = int(ends[-1])
    inside = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # [tokens]
    source = np.repeat(ragged.offsets[index], lengths) + inside
    target = np.repeat(row * width + columns, lengths) + inside

    def spread(values: np.ndarray, fill: int = 0) -> np.ndarray:
        grid = np.full(rows * width, fill, np.int32)
        grid[target] = values
        return grid.reshape(rows, width)

    segments = spread(np.repeat(segment, lengths))
    return {
        **{name: spread(values[source], pad) for name, (values, pad) in ragged.fields.items()},
        "attention_mask": (segments > 0).astype(np.int32),
        "segment_ids": segments,
        "position_ids": spread(inside),
        "pool_rows": (whole_row // arrangement.accumulate).astype(np.int32),
        # An absent example reads some token of its row; its weight is 0.
        "pool_columns": np.minimum(columns, width - 1).astype(np.int32),
        **split.inputs.labelled(split.labels[index], part.take(draw.weight)),
    }


def pack_plan(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    tokens_per_batch: int | None,
    accumulate: int,
    shards: int,
) -> tuple[Arrangement, Callable[[int], Sequence[Draw]]]:
    """Return the arrangement of a split, and the draws of each epoch.

    Raises:
      ConfigError: the data or one of its texts has no tokens, or a token budget is given too.
    """
    split.inputs.ragged()  # refuses what has no tokens
    if tokens_per_batch is not None:
        raise ConfigError(
            f"data.tokens_per_batch: got {tokens_per_batch} with data.layout=pack, expected none; "
            "packed batches have train.batch_size examples"
        )
    if not split.lengths.all():
        raise ConfigError(
            f"data.layout: got 'pack' with {int((split.lengths == 0).sum())} texts of no tokens, "
            "expected at least one in each; drop these rows, or use 'bucket'"
        )
    arrangement = arrange(
        split.lengths,
        batch_size=batch_size,
        accumulate=accumulate,
        shards=shards,
    )

    @functools.lru_cache(maxsize=2)
    def draws(epoch: int) -> Sequence[Draw]:
        return pack_draws(split.lengths, arrangement, seed, epoch)

    return arrangement, draws
