"""Bucket lengths against brute force."""

import itertools
import time

import numpy as np
import pytest

from jaxdistill.data.batching.buckets import bucket_of, choose_buckets


def slots(lengths: np.ndarray, buckets: tuple[int, ...]) -> int:
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("multiple", [1, 3])
def test_no_choice_of_buckets_pads_less(seed, count, multiple):
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.2, size=rng.integers(1, 30)).clip(max=14)
    chosen = choose_buckets(lengths, count, multiple=multiple)
    top = -(-int(lengths.max()) // multiple) * multiple
    inner = range(multiple, top, multiple)
    best = min(
        slots(lengths, (*choice, top))
        for size in range(min(count - 1, len(inner)) + 1)
        for choice in itertools.combinations(inner, size)
    )
    assert slots(lengths, chosen) == best
    assert len(chosen) <= count
    assert list(chosen) == sorted(set(chosen))
    assert all(bucket % multiple == 0 for bucket in chosen)


def test_as_many_buckets_as_lengths_pad_nothing():
    lengths = np.array([3, 3, 9, 4])
    assert choose_buckets(lengths, 8) == (3, 4, 9)


def test_many_long_rows_are_quick():
    lengths = np.random.default_rng(0).integers(1, 513, 100_000)
    start = time.process_time()
    buckets = choose_buckets(lengths, 8)
    assert time.process_time() - start < 2.0
    assert buckets[-1] == 512
    assert (np.array(buckets)[bucket_of(lengths, buckets)] >= lengths).all()
