"""The rows that one process reads are those of the whole batch, for every layout."""

import dataclasses

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.batching.draws import Part
from jaxdistill.data.batching.pack_documents import pack_rows
from jaxdistill.data.inputs.images import Images
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.split import Split, make_split
from jaxdistill.data.text.corpus import Corpus
from jaxdistill.teachers import targets as precomputed

LENGTHS = np.random.default_rng(1).geometric(0.12, 101).clip(3, 40)
PARTS = (Part((0, 1), 4), Part((2,), 4), Part((1, 3), 4))


def config(**values) -> DataConfig:
    return DataConfig(source="digits", max_length=80, **values)


def image_split() -> Split:
    images = np.random.default_rng(0).random((37, 6, 6, 1), np.float32)
    labels = np.arange(37, dtype=np.int32)
    return make_split(labels, Images(images, Preprocessing()))


def row_of_documents() -> Split:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.arange(offsets[-1], dtype=np.int32)
    learned = np.ones(len(ids), bool)
    corpus = Corpus(ids, learned, np.ones(len(ids), np.int32), offsets)
    return make_split(*pack_rows(corpus, 48, pad_id=0))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["bucket", "pack", "images", "rows"])
def test_parts_are_the_rows_of_the_whole(make_split, kind, accumulate):
    makers = {"images": image_split, "rows": row_of_documents}
    split = makers[kind]() if kind in makers else make_split(LENGTHS)
    options = {"images": {"shift": 2}, "pack": {"layout": "pack"}}.get(kind, {})
    source = train_batches(
        split, batch_size=16, seed=5, config=config(**options), accumulate=accumulate, shards=4
    )
    logits = np.random.default_rng(2).random((len(split), 3), np.float32)
    if kind != "rows":
        source = precomputed.with_targets(source, precomputed.in_memory(logits))
    for step in (0, 2, len(source) - 1, len(source) + 1):
        whole = source[step]
        for part in PARTS:
            own = source.only(part)[step]
            assert own.keys() == whole.keys()
            for name, leaf in whole.items():
                blocks = np.split(leaf, 4)
                expected = np.concatenate([blocks[block] for block in part.blocks])
                np.testing.assert_array_equal(own[name], expected, err_msg=f"{name} {part}")
                assert own[name].dtype == leaf.dtype
        assert dataclasses.asdict(source.only(part).info(step)).keys()
        assert source.only(part).info(step).examples == source.info(step).examples


def test_only_the_rows_of_a_part_are_read(make_split):
    """What is not of the part may be unreadable: here it is out of range."""
    split = make_split(LENGTHS)
    source = train_batches(split, batch_size=16, seed=5, config=config(), shards=4)
    asked = []
    targets = precomputed.Targets(
        codec=precomputed.codecs.Full(),
        width=2,
        read=lambda index: asked.append(index) or {"logits": np.zeros((len(index), 2), np.float32)},
    )
    source = precomputed.with_targets(source, targets)
    source.only(Part((3,), 4))[0]
    np.testing.assert_array_equal(asked[0], source.draws(0)[0].index[12:])
