"""Packed rows: every token predicted once, from its own document, in full rows."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import eval_batches, train_batches
from jaxdistill.data.batching.pack_documents import pack_documents, pack_rows
from jaxdistill.data.split import make_split, take_examples
from jaxdistill.data.text.corpus import Corpus


def make_corpus(lengths, *, learned=None, seed=0) -> Corpus:
    """Documents whose tokens are all different: document * 1000 + position."""
    ids = np.concatenate([1000 * d + np.arange(n) for d, n in enumerate(lengths)]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if learned is None:
        learned = np.ones(len(ids), bool)
        learned[offsets[:-1]] = False
    sizes = np.random.default_rng(seed).integers(0, 9, len(ids)).astype(np.int32)
    return Corpus(ids, learned, sizes, offsets)


def config(**fields) -> DataConfig:
    return DataConfig(train="corpus.txt", **fields)


def test_the_next_token_is_looked_up_once_and_never_beyond_a_document():
    # Two documents in each of two rows of 8: written down by hand.
    corpus = make_corpus([3, 4, 2, 5])
    split = make_split(*pack_rows(corpus, 8, pad_id=7777))
    batch = next(iter(eval_batches(split, batch_size=2, config=config())))
    by_row = {tuple(row[row != 7777]): i for i, row in enumerate(batch["input_ids"])}
    first = by_row[0, 1, 2, 3000, 3001, 3002, 3003, 3004]
    second = by_row[1000, 1001, 1002, 1003, 2000, 2001]
    expected = {
        "input_ids": (
            [0, 1, 2, 3000, 3001, 3002, 3003, 3004],
            [1000, 1001, 1002, 1003, 2000, 2001, 7777, 7777],
        ),
        "labels": (
            [1, 2, -1, 3001, 3002, 3003, 3004, -1],
            [1001, 1002, 1003, -1, 2001, -1, -1, -1],
        ),
        "segment_ids": ([1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2, 0, 0]),
        "position_ids": ([0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1, 0, 0]),
        "loss_mask": ([1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 0, 0, 0]),
        "attention_mask": ([1] * 8, [1] * 6 + [0] * 2),
    }
    for name, (one, other) in expected.items():
        np.testing.assert_array_equal(batch[name][first], one, err_msg=name)
        np.testing.assert_array_equal(batch[name][second], other, err_msg=name)
    assert batch["labels"].dtype == np.int32
    assert batch["loss_mask"].dtype == np.float32


@pytest.mark.parametrize("capacity", [2, 3, 7, 16, 64])
@pytest.mark.parametrize("lengths", [[50, 3, 1, 17, 8, 2, 33], [5] * 20, [1, 1, 9], [300]])
def test_every_token_is_predicted_once_from_the_one_before_it(lengths, capacity):
    corpus = make_corpus(lengths)
    split = make_split(*pack_rows(corpus, capacity, pad_id=0))
    found, sizes = [], 0
    for row in range(len(split)):
        own = slice(split.inputs.offsets[row], split.inputs.offsets[row + 1])
        tokens, labels = split.inputs.tokens[own], split.labels[row][: split.lengths[row]]
        assert len(tokens) <= capacity
        assert (split.labels[row][split.lengths[row] :] == -1).all()
        for token, label in zip(tokens, labels, strict=True):
            if label >= 0:
                assert label == token + 1
                found.append(label)
        sizes += split.inputs.sizes_of_labels[row].sum()
    wanted = corpus.ids[corpus.learned]
    assert sorted(found) == sorted(wanted.tolist())
    assert sizes == corpus.sizes[corpus.learned].sum()
    np.testing.assert_array_equal(split.truth.sum(0), [len(wanted), sizes])


@pytest.mark.parametrize("kind", ["documents", "two thirds", "one long", "equal halves"])
def test_nearly_every_slot_holds_a_real_token(kind):
    random = np.random.default_rng(0)
    lengths = {
        "documents": np.exp(random.normal(4, 1.5, 3000)).astype(int) + 2,
        "two thirds": np.full(500, 171),
        "one long": np.array([100_000]),
        "equal halves": np.full(500, 129),
    }[kind]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    pieces = pack_documents(offsets, 256)
    rows = np.bincount(pieces.rows, weights=pieces.lengths)
    assert rows.max() <= 256
    assert rows.sum() >= 0.98 * 256 * len(rows)


def test_tokens_that_are_not_learned_are_read_but_not_predicted():
    learned = np.array([0, 0, 1, 1, 0, 0, 1, 0], bool)
    corpus = make_corpus([8], learned=learned)
    split = make_split(*pack_rows(corpus, 8, pad_id=0))
    np.testing.assert_array_equal(split.labels[0], [-1, 2, 3, -1, -1, 6, -1, -1])
    np.testing.assert_array_equal(split.inputs.tokens, np.arange(8))


def test_batches_depend_on_seed_and_step_alone_in_every_epoch():
    split = make_split(*pack_rows(make_corpus([40] * 30), 16, pad_id=0))

    def source(seed):
        return train_batches(split, batch_size=4, seed=seed, config=config(layout="pack"))

    one, again, other = source(1), source(1), source(2)
    steps = one.steps_per_epoch
    order = list(range(3 * steps))
    for step in [*order[::-1], *order]:
        np.testing.assert_array_equal(one[step]["input_ids"], again[step]["input_ids"])
    epochs = [
        np.concatenate([one.info(epoch * steps + step).index for step in range(steps)])
        for epoch in range(3)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[epoch >= 0]), np.arange(len(split)))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()
    assert (one[0]["input_ids"] != other[0]["input_ids"]).any()
    assert one.shapes == ((4, 16),)


def test_rows_that_only_fill_a_batch_are_not_learned():
    split = make_split(*pack_rows(make_corpus([40] * 3), 16, pad_id=0))
    (batch,) = eval_batches(split, batch_size=len(split) + 2, config=config())
    assert batch["weight"].tolist() == [1.0] * len(split) + [0.0] * 2
    assert batch["loss_mask"][:-2].any(axis=1).all()
    assert not batch["loss_mask"][-2:].any()


def test_some_rows_are_taken_with_all_that_belongs_to_them():
    split = make_split(*pack_rows(make_corpus([40, 7, 22, 5, 30]), 16, pad_id=0))
    rows = np.array([len(split) - 1, 0])
    taken = take_examples(split, rows)
    whole = next(iter(eval_batches(split, batch_size=len(split), config=config())))
    part = next(iter(eval_batches(taken, batch_size=2, config=config())))
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][rows], err_msg=name)
    np.testing.assert_array_equal(taken.truth, split.truth[rows])
    assert taken.fingerprint != split.fingerprint
