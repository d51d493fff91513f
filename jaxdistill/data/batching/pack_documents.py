"""Documents in full rows: several per row, long ones over several rows, and nothing leaks."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdistill.data.inputs.packed_rows import PackedRows
from jaxdistill.data.text.corpus import Corpus

NOTHING = -1  # the label of a token after which nothing is to be predicted
_REAL = 0.98


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Parts of documents and where they go; a row holds its pieces one after the other.

    A document that goes on in another row repeats its last token there, so that every token but the
    first of a document is predicted exactly once.

    Attributes:
      starts, stops: place in the corpus, int64 [P].
      rows: row, rising, int64 [P].
    """

    starts: np.ndarray
    stops: np.ndarray
    rows: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, int64 [P]."""
        return self.stops - self.starts


def pack_documents(offsets: np.ndarray, capacity: int) -> Pieces:
    """Find rows for documents such that at least 98 % of the tokens are real.

    Documents longer than a row fill whole rows; what is left of them, and all others, are
    put where the least room stays (best fit, longest first: Ding et al. 2024, arXiv 2404.10830).
    Should that leave more than 2 % empty, documents are cut where a row ends instead.

    Args:
      offsets: where documents begin and end, int64 [D + 1].
      capacity: tokens per row, at least 2.
    """
    starts, stops = _cut(offsets[:-1], offsets[1:], capacity)
    lengths = stops - starts
    order = np.argsort(-lengths, kind="stable")
    rows = np.empty(len(order), np.int64)
    rows[order] = _best_fit(lengths[order].tolist(), capacity)
    count = int(rows.max(initial=-1)) + 1
    fewest = -(-int(lengths.sum()) // capacity)
    if count > fewest and lengths.sum() < _REAL * capacity * count:
        starts, stops, rows = _in_sequence(offsets, capacity)
    by_row = np.argsort(rows, kind="stable")
    return Pieces(starts[by_row], stops[by_row], rows[by_row])


def _cut(starts: np.ndarray, stops: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents longer than a row; each piece begins with the last token of the one before."""
    counts = np.maximum(-(-(stops - starts - 1) // (capacity - 1)), 0)  # none of a single token
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.repeat(starts, counts) + number * (capacity - 1)
    return begin, np.minimum(begin + capacity, np.repeat(stops, counts))


def _best_fit(sizes: list[int], capacity: int) -> list[int]:
    """Put descending sizes into the fullest row that has room."""
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by free tokens
    rooms = 0  # bit `n`: some row has `n` free tokens
    rows, count = [], 0
    for size in sizes:
        fitting = rooms >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            row = with_room[free].pop()
            if not with_room[free]:
                rooms ^= 1 << free
        else:
            row, free, count = count, capacity, count + 1
        left = free - size
        with_room[left].append(row)
        rooms |= 1 << left
        rows.append(row)
    return rows


def _in_sequence(offsets: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill row after row, and cut the document that stands where a row ends."""
    starts, stops, rows = [], [], []
    row, free = 0, capacity
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        at = start
        while stop - at > 1:
            if free < 2:
                row, free = row + 1, capacity
            end = min(at + free, stop)
            starts.append(at)
            stops.append(end)
            rows.append(row)
            free -= end - at
            at = end if end == stop else end - 1
    return np.array(starts, np.int64), np.array(stops, np.int64), np.array(rows, np.int64)


def pack_rows(corpus: Corpus, capacity: int, pad_id: int) -> tuple[np.ndarray, PackedRows]:
    """Pack a corpus into rows, each of which is an example; return their labels and the rows.

    The next token is looked up here, and only here: `labels[i, t]` is the token after the one at
    `t` of row `i` in the same piece, or -1 where there is none or it is not to be learned.
    """
    pieces = pack_documents(corpus.offsets, capacity)
    lengths = pieces.lengths
    places = np.repeat(pieces.starts - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(lengths.sum())  # of each packed token in the corpus
    count = int(pieces.rows.max(initial=-1)) + 1
    per_row = np.bincount(pieces.rows, weights=lengths, minlength=count).astype(np.int64)
    first_piece = np.searchsorted(pieces.rows, np.arange(count))
    segment = np.arange(len(lengths)) - first_piece[pieces.rows] + 1  # from 1 in each row
    last = np.zeros(len(places), bool)
    last[np.cumsum(lengths) - 1] = True
    after = np.minimum(places + 1, len(corpus.ids) - 1)
    predicts = ~last & corpus.learned[after]
    inside = np.arange(per_row.max(initial=0)) < per_row[:, None]  # [N, T]

    def table(values: np.ndarray, fill: int) -> np.ndarray:
        whole = np.full(inside.shape, fill, np.int32)
        whole[inside] = np.where(predicts, values, fill)
        return whole

    tokens = corpus.ids[places]
    segments = np.repeat(segment, lengths).astype(np.int32)
    labels = table(corpus.ids[after], NOTHING)
    rows = PackedRows(
        tokens=tokens,
        segments=segments,
        offsets=np.concatenate([[0], np.cumsum(per_row)]),
        sizes_of_labels=table(corpus.sizes[after], 0),
        pad_id=pad_id,
    )
    return labels, rows
