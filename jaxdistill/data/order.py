"""Random order as a pure function of numbers, the same on every machine and NumPy version."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_WORD = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream of random bits is for: each purpose has a stream."""

    ORDER = 0
    BATCHES = 1
    AUGMENT = 2
    HOLDOUT = 3
    SUBSET = 4


def stream(seed: int, epoch: int, purpose: Purpose, step: int = 0) -> np.random.Philox:
    """Return the random bits that belong to `(seed, epoch, purpose, step)` and to nothing else.

    Philox is counter based: seed and epoch are its key, purpose and step the high words of its
    counter, so that no stream overlaps another (Salmon et al., 2011, "Parallel Random Numbers: As
    Easy as 1, 2, 3").
    """
    key = np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64)
    counter = np.array([0, 0, step & _WORD, int(purpose)], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)


def permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    """Return a random order of `range(count)`, int64 `[count]`.

    Raw bits are sorted instead of calling `Generator.permutation`, whose stream NumPy may change.
    """
    return np.argsort(bits.random_raw(count), kind="stable")


def integers(bits: np.random.Philox, count: int, below: int) -> np.ndarray:
    """Return `count` random integers from 0 to `below - 1`, int64 `[count]`."""
    return (bits.random_raw(count) % np.uint64(below)).astype(np.int64)
