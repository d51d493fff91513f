"""Which fixed lengths rows are padded to, so that the fewest slots are padding."""

from __future__ import annotations

import numpy as np


def choose_buckets(lengths: np.ndarray, count: int, *, multiple: int = 1) -> tuple[int, ...]:
    """Choose at most `count` lengths such that padding every row to the next one costs least.

    Exact, by dynamic programming over the distinct lengths: with `C(u)` rows of length up to `u`,
    `cost(k, u) = min over v < u of cost(k - 1, v) + u (C(u) - C(v))`. O(count · distinct²).

    Args:
      lengths: tokens per row, int [N], N >= 1.
      count: the most lengths to use.
      multiple: every length is a multiple of this.

    Returns:
      Ascending lengths; the last one fits the longest row.
    """
    rounded = -(-np.maximum(lengths, 1) // multiple) * multiple
    sizes, rows = np.unique(rounded, return_counts=True)  # [L]
    sizes = sizes.astype(np.int64)
    below = np.concatenate([[0], np.cumsum(rows)])  # [L + 1]
    # part[v, u]: slots of rows with sizes v … u in one bucket of size u.
    part = sizes[None, :] * (below[None, 1:] - below[:-1, None])  # [L, L]
    part = np.where(np.tri(len(sizes), k=-1, dtype=bool), np.iinfo(np.int64).max // 2, part)
    cost = part[0]  # [L], one bucket for everything up to u
    back: list[np.ndarray] = []
    for _ in range(min(count, len(sizes)) - 1):
        before = np.concatenate([[0], cost[:-1]])  # a bucket that starts at v follows all below v
        total = before[:, None] + part  # [L, L]
        back.append(np.argmin(total, axis=0))
        cost = np.take_along_axis(total, back[-1][None], axis=0)[0]
    chosen = []
    last = len(sizes) - 1
    for starts in reversed(back):
        chosen.append(int(sizes[last]))
        start = int(starts[last])
        if start == 0:
            return tuple(reversed(chosen))
        last = start - 1
    chosen.append(int(sizes[last]))
    return tuple(reversed(chosen))


def bucket_of(lengths: np.ndarray, buckets: tuple[int, ...]) -> np.ndarray:
    """Return the index of the smallest bucket that fits each row, int64 [N]."""
    return np.searchsorted(np.array(buckets), lengths, side="left")
