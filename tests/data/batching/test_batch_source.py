"""Batches are a pure function of seed and step, and hold every example once per epoch."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import eval_batches, train_batches
from jaxdistill.data.batching.draws import bucket_counts, bucket_draws
from jaxdistill.data.inputs.features import features_of
from jaxdistill.data.inputs.images import Images
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.split import Split, make_split
from jaxdistill.errors import ConfigError

LENGTHS = np.random.default_rng(1).geometric(0.12, 237).clip(3, 40)


def config(**values) -> DataConfig:
    return DataConfig(source="digits", max_length=80, **values)


def examples_of(batch: dict) -> list[int]:
    """Read from the tokens themselves which examples a bucketed batch holds."""
    return [int(row[0]) // 1000 - 1 for row in batch["input_ids"][batch["weight"] > 0]]


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize("extra", [{}, {"tokens_per_batch": 320}, {"buckets": 1}])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_holds_every_example_once(make_split, extra, epoch):
    split = make_split(LENGTHS)
    source = train_batches(split, batch_size=16, seed=5, config=config(**extra))
    steps = range(epoch * len(source), (epoch + 1) * len(source))
    batches = [source[step] for step in steps]
    seen = [example for batch in batches for example in examples_of(batch)]
    assert sorted(seen) == list(range(len(split)))
    assert sum(batch["weight"].sum() for batch in batches) == len(split)
    assert sum((batch["weight"] == 0).any() for batch in batches) <= 1
    assert {batch["input_ids"].shape for batch in batches} <= set(source.shapes)
    infos = [source.info(step) for step in steps]
    assert [info.examples for info in infos] == [batch["weight"].sum() for batch in batches]
    assert sum(info.tokens for info in infos) == LENGTHS.sum()
    assert [info.slots for info in infos] == [batch["input_ids"].size for batch in batches]


def test_rows_are_the_examples_padded(make_split):
    split = make_split(LENGTHS)
    source = train_batches(split, batch_size=16, seed=5, config=config())
    for step in range(len(source)):
        batch, index = source[step], source.info(step).index
        for row in range(16):
            if index[row] < 0:
                assert batch["weight"][row] == 0
                continue
            example, length = index[row], split.lengths[index[row]]
            assert batch["weight"][row] == 1
            ids, types = batch["input_ids"][row], batch["token_type_ids"][row]
            start = split.inputs.offsets[example]
            np.testing.assert_array_equal(ids[:length], split.inputs.tokens[start : start + length])
            np.testing.assert_array_equal(
                types[:length], split.inputs.token_types[start : start + length]
            )
            assert (ids[length:] == split.inputs.pad_id).all()
            assert (types[length:] == 0).all()
            expected = np.arange(len(ids)) < length
            np.testing.assert_array_equal(batch["attention_mask"][row], expected)
            assert batch["labels"][row] == split.labels[example]
        kinds = {name: value.dtype.name for name, value in batch.items()}
        assert kinds == {
            "input_ids": "int32",
            "attention_mask": "int32",
            "token_type_ids": "int32",
            "labels": "int32",
            "weight": "float32",
        }


@pytest.mark.parametrize("layout", ["bucket", "pack"])
def test_a_step_is_the_same_whatever_was_read_before(make_split, layout):
    split = make_split(LENGTHS)

    def fresh(seed=5):
        return train_batches(split, batch_size=16, seed=seed, config=config(layout=layout))

    source = fresh()
    straight = [source[step] for step in range(4 * len(source))]
    for step in (3 * len(source) + 1, 0, 2 * len(source), 7):
        assert_equal(fresh()[step], straight[step])
    resumed = fresh()
    for step in range(10, 25):
        assert_equal(resumed[step], straight[step])
    first, second = straight[: len(source)], straight[len(source) : 2 * len(source)]
    assert any(
        not np.array_equal(a["labels"], b["labels"]) for a, b in zip(first, second, strict=True)
    )
    other = fresh(seed=6)
    assert any(not np.array_equal(other[s]["labels"], straight[s]["labels"]) for s in range(5))


def test_the_order_is_the_same_in_every_version(make_split):
    """Written down: a change of it would silently break resuming after an update."""
    lengths = np.arange(60) * 7 % 38 + 3
    source = train_batches(make_split(lengths), batch_size=8, seed=5, config=config(buckets=2))
    assert [source.info(step).index[:4].tolist() for step in (0, 11)] == [
        [54, 26, 37, 53],
        [51, 23, 17, 46],
    ]
    packed = config(buckets=2, layout="pack")
    source = train_batches(make_split(lengths), batch_size=8, seed=5, config=packed)
    assert [source.info(step).index[:4].tolist() for step in (0, 11)] == [
        [21, 10, 25, 3],
        [5, 26, 9, 57],
    ]


def test_what_a_bucket_leaves_moves_to_the_next_one():
    bucket = np.array([0] * 5 + [1] * 3 + [2] * 2)
    draws = bucket_draws(np.arange(10), bucket, (4, 8, 16), (4, 4, 4))
    assert [draw.shape for draw in draws] == [(4, 4), (4, 8), (4, 16)]
    assert draws[0].index.tolist() == [0, 1, 2, 3]
    assert draws[1].index.tolist() == [4, 5, 6, 7]
    assert draws[2].index[:2].tolist() == [8, 9]
    assert draws[2].weight.tolist() == [1, 1, 0, 0]
    assert bucket_counts([5, 3, 2], [4, 4, 4]) == [1, 1, 1]


def test_a_token_budget_sets_the_rows(make_split):
    source = train_batches(
        make_split(LENGTHS),
        batch_size=16,
        seed=0,
        config=config(tokens_per_batch=480),
        accumulate=2,
        shards=2,
    )
    for rows, length in source.shapes:
        assert rows % 4 == 0
        assert 480 - 4 * length < rows * length <= 480


def test_a_budget_below_one_row_each_is_an_error(make_split):
    with pytest.raises(ConfigError, match=r"tokens_per_batch: got 96, expected at least \d+"):
        train_batches(
            make_split(LENGTHS),
            batch_size=16,
            seed=0,
            config=config(tokens_per_batch=96),
            shards=8,
        )


def test_rows_that_cannot_be_dealt_are_an_error(make_split):
    with pytest.raises(ConfigError, match=r"got 30, expected a multiple of .* 2 x 4; .* is 32"):
        train_batches(
            make_split(LENGTHS), batch_size=30, seed=0, config=config(), accumulate=2, shards=4
        )


def test_fewer_examples_than_rows_make_one_short_batch(make_split):
    source = train_batches(make_split(np.array([3, 5])), batch_size=8, seed=0, config=config())
    assert len(source) == 1
    batch = source[5]
    assert batch["weight"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert (batch["attention_mask"].sum(1) > 0).all()


def test_evaluation_holds_every_example_once_in_one_order(make_split):
    split = make_split(LENGTHS)
    source = eval_batches(split, batch_size=30, config=config(), shards=4)
    assert {shape[0] for shape in source.shapes} == {32}
    seen = [example for batch in source for example in examples_of(batch)]
    assert sorted(seen) == list(range(len(split)))
    indices = np.concatenate([source.info(step).index for step in range(len(source))])
    assert indices[indices >= 0].tolist() == seen
    assert_equal(source[0], source[len(source)])
    assert len(source.shapes) <= max(1, len(source) // 2)


def test_the_fingerprint_tells_what_the_order_depends_on(make_split):
    split = make_split(LENGTHS)

    def fingerprint(split=split, batch_size=16, seed=0, **values):
        return train_batches(
            split, batch_size=batch_size, seed=seed, config=config(**values)
        ).fingerprint

    same = train_batches(split, batch_size=16, seed=0, config=config(), accumulate=2, shards=4)
    assert fingerprint() == same.fingerprint  # devices and microbatches do not change the order
    others = [
        fingerprint(split=make_split(LENGTHS[:-1])),
        fingerprint(batch_size=8),
        fingerprint(seed=1),
        fingerprint(buckets=3),
        fingerprint(layout="pack"),
        fingerprint(shift=1),
    ]
    assert len({fingerprint(), *others}) == 7


def image_split(count: int) -> Split:
    images = np.random.default_rng(0).random((count, 6, 6, 1), np.float32) + 1
    labels = np.arange(count, dtype=np.int32)
    return make_split(labels, Images(images, Preprocessing()))


def test_images_and_features_are_batched_as_they_are():
    split = image_split(21)
    source = train_batches(split, batch_size=8, seed=0, config=config())
    assert source.shapes == ((8, 6, 6, 1),)
    batches = list(source)
    assert sorted(int(x) for b in batches for x in b["labels"][b["weight"] > 0]) == list(range(21))
    for batch in batches:
        np.testing.assert_array_equal(batch["images"], split.inputs.images[batch["labels"]])
    vectors = split.inputs.images.reshape(21, 36)
    plain = make_split(split.labels, features_of(vectors))
    source = train_batches(plain, batch_size=8, seed=0, config=config())
    assert source.shapes == ((8, 36),)
    np.testing.assert_array_equal(source[0]["features"], vectors[source[0]["labels"]])


def test_shifts_move_pixels_and_repeat_with_the_step():
    split = image_split(21)
    source = train_batches(split, batch_size=8, seed=0, config=config(shift=2))
    again = train_batches(split, batch_size=8, seed=0, config=config(shift=2))
    moves = []
    for step in range(2 * len(source)):
        batch = source[step]
        assert_equal(batch, again[step])
        for image, label in zip(batch["images"][..., 0], batch["labels"], strict=True):
            original = split.inputs.images[label, ..., 0]
            found = [
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if np.array_equal(image, moved(original, down, right))
            ]
            assert len(found) == 1
            moves += found
    assert len(set(moves)) > 15
    steps = [tuple(moves[start : start + 8]) for start in range(0, len(moves), 8)]
    assert len(set(steps)) == len(steps)  # no two steps move alike, nor two epochs


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if 0 <= row - down < image.shape[0] and 0 <= column - right < image.shape[1]:
                result[row, column] = image[row - down, column - right]
    return result


def test_a_token_budget_for_images_is_an_error():
    with pytest.raises(ConfigError, match="tokens_per_batch: got 96 for data without tokens"):
        train_batches(image_split(4), batch_size=2, seed=0, config=config(tokens_per_batch=96))


@pytest.mark.slow
def test_a_batch_is_made_in_well_under_a_millisecond(make_split):
    import time

    split = make_split(np.random.default_rng(0).geometric(0.08, 20_000).clip(3, 66))
    for layout in ("bucket", "pack"):
        source = train_batches(split, batch_size=32, seed=0, config=config(layout=layout))
        start = time.process_time()
        for step in range(len(source)):
            source[step]
        assert (time.process_time() - start) / len(source) < 1e-3
