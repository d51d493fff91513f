"""Fingerprints and cache keys do not change: caches and interrupted runs of before go on."""

import numpy as np
import pytest

from jaxdistill.data.batching.pack_documents import pack_rows
from jaxdistill.data.inputs.features import features_of
from jaxdistill.data.inputs.images import Images
from jaxdistill.data.inputs.tokens import Tokens
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.split import Split, make_split, take_examples
from jaxdistill.data.text.corpus import Corpus
from jaxdistill.teachers.identity import example_keys

LABELS = np.array([0, 1, 1], np.int32)
PIXELS = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1)


def text() -> Split:
    tokens = np.array([2, 5, 3, 2, 6, 7, 3, 2, 3], np.int32)
    types = np.array([0, 0, 0, 0, 0, 1, 1, 0, 0], np.uint8)
    return make_split(LABELS, Tokens(tokens, types, np.array([0, 3, 7, 9])))


def rows() -> Split:
    offsets, ones = np.array([0, 5, 12, 20]), np.ones(20)
    ids = np.arange(20, dtype=np.int32)
    corpus = Corpus(ids, ones.astype(bool), ones.astype(np.int32), offsets)
    return make_split(*pack_rows(corpus, 8, pad_id=0))


SPLITS = {
    "text": text,
    "rows": rows,
    "image": lambda: make_split(LABELS, Images(PIXELS, Preprocessing())),
    "features": lambda: make_split(LABELS, features_of(PIXELS.reshape(3, 4))),
}
KNOWN = {
    "text": (
        "a350b85a61eb480b",
        "fe4160397223228e",
        [3802890374696520233, 4871330522485961437, 4004360716924212559],
    ),
    "rows": (
        "184e134eefd46ba0",
        "816472737751f9ad",
        [498341998836601905, 5915265144094913057, 127083250239797018],
    ),
    "image": (
        "66a3f03e9166928c",
        "387279f2bbad96d9",
        [2747922369425462947, 4127571818429956961, 297368273319725562],
    ),
    "features": (
        "7d280ff00ac8ab02",
        "3f53930eff5f2e27",
        [2747922369425462947, 4127571818429956961, 297368273319725562],
    ),
}
"""Fingerprints of all three and of examples 1 and 0, and keys, as they were given before."""


@pytest.mark.parametrize("kind", SPLITS)
def test_hashes_stay(kind):
    whole, subset, keys = KNOWN[kind]
    split = SPLITS[kind]()
    assert split.fingerprint == whole
    assert take_examples(split, np.array([1, 0])).fingerprint == subset
    assert example_keys(split).tolist() == keys
