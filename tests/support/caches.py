"""Caches of ragged examples, whole and small, and what they hold."""

import numpy as np

from jaxdistill.teachers.cache.codecs import Full
from jaxdistill.teachers.cache.reader import open_cache
from jaxdistill.teachers.cache.writer import CacheWriter

WIDTH = 5


IDENTITY = {"teacher": "a" * 64, "tokenizer": "b" * 64, "data": "c" * 64}


def documents(count=12, seed=0):
    """Ragged examples as {number: float32 [tokens, WIDTH]}, one of them empty."""
    generator = np.random.default_rng(seed)
    numbers = generator.permutation(100)[:count]
    lengths = generator.integers(1, 9, count)
    lengths[3] = 0
    return {
        int(number): generator.normal(0, 1, (length, WIDTH)).astype(np.float32)
        for number, length in zip(numbers, lengths, strict=True)
    }


def batches(examples, size=3):
    """Arguments of `write_encoded` for the codec `full`, which stores what it is given."""
    items = list(examples.items())
    for start in range(0, len(items), size):
        part = items[start : start + size]
        values = np.concatenate([value for _, value in part])
        yield [number for number, _ in part], {"logits": values}, [len(v) for _, v in part]


def make(path, identity=None, **options):
    identity = IDENTITY if identity is None else identity
    options = {"width": WIDTH, "process_index": 0, "process_count": 1, **options}
    return CacheWriter(path, Full(), identity, **options)


def written(path, examples=None, **options):
    with make(path, shard_bytes=1, **options) as writer:
        for batch in batches(documents() if examples is None else examples):
            writer.write_encoded(*batch)
    return path


def content(path):
    """Everything in a cache, by example."""
    cache = open_cache(path)
    fields, lengths = cache.read(cache.examples)
    ends = np.cumsum(lengths)
    return {
        int(number): fields["logits"][end - length : end]
        for number, end, length in zip(cache.examples, ends, lengths, strict=True)
    }


def assert_holds(path, examples):
    found = content(path)
    assert found.keys() == examples.keys()
    for number, values in examples.items():
        np.testing.assert_array_equal(found[number], values)


def shards(path):
    return sorted((path / "shards").iterdir())
