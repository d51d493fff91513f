"""Packed rows hold the same examples, whole, once per epoch and inside their own part."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.batching.pack_examples import first_fit
from jaxdistill.data.inputs.features import features_of
from jaxdistill.data.split import make_split
from jaxdistill.errors import ConfigError

LENGTHS = np.random.default_rng(2).geometric(0.1, 301).clip(3, 50)


def config(**values) -> DataConfig:
    return DataConfig(source="digits", max_length=64, layout="pack", **values)


def unpack(batch: dict, accumulate: int = 1) -> list[tuple[int, np.ndarray]]:
    """Follow each example from its first token; returns its number and its tokens."""
    found = []
    width = batch["input_ids"].shape[1]
    for place in np.flatnonzero(batch["weight"] > 0):
        row = batch["pool_rows"][place] * accumulate + place % accumulate
        column = batch["pool_columns"][place]
        segments = batch["segment_ids"][row]
        columns = np.flatnonzero(segments == segments[column])
        assert segments[column] > 0
        assert columns[0] == column
        assert columns[-1] - columns[0] + 1 == len(columns)
        np.testing.assert_array_equal(batch["position_ids"][row, columns], np.arange(len(columns)))
        tokens = batch["input_ids"][row, columns]
        np.testing.assert_array_equal(batch["token_type_ids"][row, columns], tokens % 2)
        assert columns[-1] < width
        found.append((int(tokens[0]) // 1000 - 1, tokens))
    return found


@pytest.mark.parametrize(("accumulate", "shards"), [(1, 1), (2, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("batch_size", [16, 24])
def test_an_epoch_holds_every_example_whole_and_once(make_split, accumulate, shards, batch_size):
    split = make_split(LENGTHS)
    source = train_batches(
        split,
        batch_size=batch_size,
        seed=3,
        config=config(),
        accumulate=accumulate,
        shards=shards,
    )
    assert len(source) == -(-len(split) // batch_size)
    assert len(source.shapes) == 1
    rows, width = source.shapes[0]
    assert rows % (accumulate * shards) == 0
    assert width <= 100
    for epoch in (0, 2):
        seen = []
        short = 0
        for step in range(epoch * len(source), (epoch + 1) * len(source)):
            batch, info = source[step], source.info(step)
            assert batch["input_ids"].shape == (rows, width)
            assert batch["weight"].shape == (batch_size,)
            short += bool((batch["weight"] == 0).any())
            found = unpack(batch, accumulate)
            assert [example for example, _ in found] == info.index[info.index >= 0].tolist()
            for example, tokens in found:
                start, stop = split.inputs.offsets[example : example + 2]
                np.testing.assert_array_equal(tokens, split.inputs.tokens[start:stop])
            np.testing.assert_array_equal(
                batch["labels"][batch["weight"] > 0], split.labels[[e for e, _ in found]]
            )
            tokens = sum(len(tokens) for _, tokens in found)
            assert batch["attention_mask"].sum() == tokens == info.tokens
            assert (batch["segment_ids"] > 0).sum() == tokens
            assert (batch["input_ids"][batch["segment_ids"] == 0] == split.inputs.pad_id).all()
            assert info.slots == rows * width
            seen += [example for example, _ in found]
        assert sorted(seen) == list(range(len(split)))
        assert short <= 1


def test_examples_stay_with_their_microbatch_and_device(make_split):
    """Split as the step splits: rows `i % accumulate`, devices contiguous."""
    accumulate, shards, batch_size = 2, 2, 24
    source = train_batches(
        make_split(LENGTHS),
        batch_size=batch_size,
        seed=0,
        config=config(),
        accumulate=accumulate,
        shards=shards,
    )
    batch = source[0]
    rows = batch["input_ids"].shape[0] // shards
    for device in range(shards):
        own = batch["input_ids"][device * rows : (device + 1) * rows]
        places = slice(device * batch_size // shards, (device + 1) * batch_size // shards)
        for micro in range(accumulate):
            inputs = own[micro::accumulate]
            local = batch["pool_rows"][places][micro::accumulate] % len(inputs)
            first = inputs[local, batch["pool_columns"][places][micro::accumulate]]
            index = source.info(0).index[places][micro::accumulate]
            assert (first // 1000 - 1).tolist() == index.tolist()


def test_batches_hold_as_many_tokens_in_other_company(make_split):
    split = make_split(np.tile(LENGTHS, 4))
    source = train_batches(split, batch_size=16, seed=0, config=config())
    tokens = [source.info(step).tokens for step in range(len(source))]
    full = [count for step, count in enumerate(tokens) if source.info(step).examples == 16]
    assert len(full) == len(source) - 1
    assert np.std(full) < 0.05 * np.mean(full)  # drawn at random it is a quarter

    def companies(epoch):
        steps = range(epoch * len(source), (epoch + 1) * len(source))
        return {frozenset(source.info(step).index.tolist()) for step in steps}

    assert not companies(0) & companies(1)


def test_packing_leaves_less_padding_than_buckets(make_split):
    split = make_split(np.random.default_rng(0).geometric(0.08, 4000).clip(3, 60))

    def padding(layout):
        source = train_batches(
            split, batch_size=64, seed=0, config=config().model_copy(update={"layout": layout})
        )
        infos = [source.info(step) for step in range(len(source))]
        return 1 - sum(info.tokens for info in infos) / sum(info.slots for info in infos)

    assert padding("pack") < 0.02 < 0.07 < padding("bucket")


def test_first_fit_fills_rows_in_turn():
    assert first_fit(np.array([7, 6, 4, 3, 2]), 10).tolist() == [0, 1, 1, 0, 2]


def test_vectors_cannot_be_packed():
    split = make_split(np.zeros(9, np.int32), features_of(np.ones((9, 2))))
    with pytest.raises(ConfigError, match="layout: got 'pack' for data without tokens"):
        train_batches(split, batch_size=8, seed=0, config=config())


def test_a_text_without_tokens_is_refused(make_split):
    with pytest.raises(ConfigError, match="'pack' with 2 texts of no tokens"):
        train_batches(make_split(np.array([3, 0, 4, 0])), batch_size=2, seed=0, config=config())


def test_a_budget_and_packing_contradict(make_split):
    with pytest.raises(ConfigError, match=r"tokens_per_batch: got 512 with data\.layout=pack"):
        train_batches(
            make_split(LENGTHS), batch_size=8, seed=0, config=config(tokens_per_batch=512)
        )
