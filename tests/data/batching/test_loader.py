"""Batches ahead of the step: in order, with errors and threads that end where they should."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.batching.loader import check_position, device_batches, position
from jaxdistill.errors import CheckpointError

LENGTHS = np.random.default_rng(1).integers(3, 20, 90)


@pytest.fixture
def source(make_split):
    return make_source(make_split)


def make_source(make_split, lengths=LENGTHS, batch_size=8, seed=0, **values):
    config = DataConfig(source="digits", max_length=32, **values)
    return train_batches(make_split(lengths), batch_size=batch_size, seed=seed, config=config)


def grain_threads() -> int:
    return sum("grain" in thread.name for thread in threading.enumerate())


def wait_for_no_threads() -> bool:
    end = time.monotonic() + 5
    while grain_threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not grain_threads()


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_batches_come_in_order_on_the_device(source, prefetch):
    steps = []
    for step, (batch, info) in enumerate(device_batches(source, 7, 40, prefetch=prefetch), start=7):
        steps.append(step)
        assert all(isinstance(value, jax.Array) for value in batch.values())
        for name, value in source[step].items():
            np.testing.assert_array_equal(batch[name], value)
        assert info.examples == source.info(step).examples
    assert steps == list(range(7, 40))
    assert wait_for_no_threads()


def test_no_steps_are_no_batches(source):
    assert list(device_batches(source, 5, 5)) == []
    assert list(device_batches(source, 5, 3)) == []


def test_what_goes_wrong_ahead_is_raised_here(source):
    calls = []

    def place(batch):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no room")
        return batch

    seen = []
    with pytest.raises(RuntimeError, match="no room"):
        seen.extend(device_batches(source, 0, 50, place=place))
    assert len(seen) == 3
    assert wait_for_no_threads()


def test_leaving_the_loop_stops_the_thread(source):
    batches = device_batches(source, 0, 10_000)
    next(batches)
    assert grain_threads() == 1
    batches.close()
    assert wait_for_no_threads()


def test_only_as_many_batches_as_asked_for_are_made_ahead(source):
    made = []
    batches = device_batches(source, 0, 100, place=lambda b: made.append(1) or b, prefetch=3)
    next(batches)
    time.sleep(0.2)
    assert 1 <= len(made) <= 5
    batches.close()


def test_the_next_batch_is_made_while_this_one_is_used(source):
    second = threading.Event()
    made = []

    def place(batch):
        made.append(threading.current_thread())
        if len(made) == 2:
            second.set()
        return batch

    batches = device_batches(source, 0, 100, place=place)
    next(batches)
    assert second.wait(10)  # nobody has asked for it yet
    assert threading.current_thread() not in made
    batches.close()


def test_a_position_fits_its_own_source(make_split):
    import json

    saved = json.loads(json.dumps(position(make_source(make_split), 12)))
    assert saved["step"] == 12
    check_position(saved, make_source(make_split))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"the seed: was 0, is 1; go back"),
        ({"batch_size": 16}, r"the batch size: was 8, is 16; the buckets .*"),
        ({"buckets": 2}, r"other batches: the buckets \(rows and length of each\): was \[\["),
        ({"lengths": LENGTHS[::-1]}, r"other batches: the data \(its files, .*: was '\w+', is '"),
        ({"shift": 2}, r"the augmentation \(data\.shift\): was 0, is 2"),
        ({"layout": "pack"}, r"the layout: was 'bucket', is 'pack"),
    ],
)
def test_a_position_of_other_batches_says_what_changed(make_split, change, message):
    saved = position(make_source(make_split), 12)
    with pytest.raises(CheckpointError, match=message):
        check_position(saved, make_source(make_split, **change))


def test_a_position_without_a_fingerprint_is_refused(source):
    with pytest.raises(CheckpointError, match=r"the data .*: was None"):
        check_position({"step": 3}, source)
