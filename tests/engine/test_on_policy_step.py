"""Which batches the student writes, seen through a step and a writer of plain arithmetic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.engine.mean import Mean
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.state import TrainState
from jaxdistill.parallel.compilation import pmap_step, replicate

STEPS = 200


def learn(state, teacher_params, batch, *, axis_name=None):
    """A step that tells what it was given."""
    del teacher_params, axis_name
    next_state = dataclasses.replace(state, step=state.step + 1)
    return next_state, {"seen": Mean.single(batch["x"].astype(jnp.float32).mean())}


def write(params, batch, rng):
    """Every number is the student's own one, with a draw behind the point."""
    drawn = jax.random.uniform(rng, batch["x"].shape)
    return {"x": params["mark"] + drawn}


def start(seed=0):
    return TrainState.create({"mark": jnp.float32(7)}, optax.sgd(0.1), seed=seed)


def seen(share, *, steps=STEPS, seed=0, first=0):
    """Return what the step was given, 0 for the data, and the metric, by step."""
    step = jax.jit(make_on_policy_step(learn, write, share))
    state = dataclasses.replace(start(seed), step=jnp.int32(first))
    values = []
    for _ in range(first, steps):
        state, metrics = step(state, None, {"x": jnp.zeros((4,))})
        values.append((metrics["seen"].value(), metrics["on_policy"].value()))
    assert step._cache_size() == 1
    return np.array(values).T


def test_no_batch_or_every_batch_is_the_students():
    given, share = seen(0.0, steps=20)
    assert (given == 0).all()
    assert (share == 0).all()
    given, share = seen(1.0, steps=20)
    assert ((given > 7) & (given < 8)).all()
    assert len(set(given)) == 20  # drawn anew each time
    assert (share == 1).all()


def test_a_schedule_moves_the_share():
    given, share = seen(optax.linear_schedule(0.0, 1.0, STEPS))
    np.testing.assert_array_equal(share, given > 0)
    expected = np.arange(STEPS) / STEPS
    for part in np.split(np.arange(STEPS), 4):
        error = np.sqrt((expected[part] * (1 - expected[part])).sum())
        assert abs(share[part].sum() - expected[part].sum()) < 3 * error
    assert 0 < share.sum() < STEPS


def test_the_key_and_the_step_decide():
    given, _ = seen(0.5, steps=30)
    np.testing.assert_array_equal(given, seen(0.5, steps=30)[0])
    np.testing.assert_array_equal(given[20:], seen(0.5, steps=30, first=20)[0])
    assert (given != seen(0.5, steps=30, seed=1)[0]).any()


@pytest.mark.slow
def test_devices_choose_alike_and_write_each_their_own():
    def learn_apart(state, teacher_params, batch, *, axis_name):
        state, metrics = learn(state, teacher_params, batch)
        values = jax.lax.all_gather(batch["x"][0], axis_name)
        own = (values > 0).sum().astype(jnp.float32)
        distinct = (jnp.diff(jnp.sort(values)) > 0).sum().astype(jnp.float32)
        return state, {**metrics, "own": Mean.single(own), "distinct": Mean.single(distinct)}

    devices = jax.devices()[:4]
    step = pmap_step(make_on_policy_step(learn_apart, write, 0.5), devices)
    state = replicate(start(), devices)
    kinds = set()
    for _ in range(12):
        state, metrics = step(state, replicate(jnp.float32(0), devices), {"x": jnp.zeros((4,))})
        own, distinct = (float(metrics[name].value()) for name in ("own", "distinct"))
        kinds.add((own, distinct))
    assert kinds == {(0.0, 0.0), (4.0, 3.0)}


def test_a_batch_of_another_form_is_refused():
    step = make_on_policy_step(learn, lambda params, batch, rng: {"y": batch["x"]}, 0.5)
    with pytest.raises(TypeError, match="cond"):
        jax.eval_shape(step, start(), None, {"x": jnp.zeros((4,))})
