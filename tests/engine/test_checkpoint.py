"""A checkpoint brings back the same state and position, and keeps the last and the best."""

import jax
import numpy as np
import optax
import pytest
from support import tiny

from jaxdistill.config.schema import CheckpointConfig
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.errors import CheckpointError


def trained(steps: int, seed: int = 0):
    optimizer = optax.adam(1e-2)
    step = make_train_step(tiny.apply, optimizer, tiny.objective(), teacher=tiny.apply)
    compiled = jax.jit(step, donate_argnums=0)
    state = TrainState.create(tiny.init(seed), optimizer, seed=seed)
    states = [state]
    for index in range(steps):
        state, _ = compiled(
            jax.tree.map(lambda leaf: leaf.copy(), state), tiny.init(1), tiny.make_batch(16, index)
        )
        states.append(state)
    return states


def plain(state):
    fields = {"params": state.params, "opt": state.opt_state, "step": state.step}
    return jax.tree.leaves({**fields, "rng": jax.random.key_data(state.rng)})


def test_round_trip_is_bitwise(tmp_path):
    states = trained(2)
    saver = Checkpointer(tmp_path, CheckpointConfig(), higher_is_better=True)
    saver.save(2, states[2], {"data": {"step": 2}}, 0.5)
    saver.wait()
    restored, position = saver.restore(states[0])
    saver.close()
    assert position == {"data": {"step": 2}}
    for ours, theirs in zip(plain(restored), plain(states[2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saving_is_safe_while_the_state_is_donated(tmp_path):
    """The next steps reuse the state's buffers while the writer is still at work."""
    optimizer = optax.adam(1e-2)
    step = make_train_step(tiny.apply, optimizer, tiny.objective(), teacher=tiny.apply)
    compiled = jax.jit(step, donate_argnums=0)
    state = TrainState.create(tiny.init(0), optimizer)
    saver = Checkpointer(tmp_path, CheckpointConfig(keep_last=4), higher_is_better=True)
    expected = {}
    for index in range(1, 5):
        state, _ = compiled(state, tiny.init(1), tiny.make_batch(16, index))
        expected[index] = jax.device_get(jax.tree.map(lambda leaf: leaf.copy(), state.params))
        saver.save(index, state, {})
    saver.wait()
    like = TrainState.create(tiny.init(0), optimizer)
    for index, params in expected.items():
        restored, _ = saver.restore(like, index)
        jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    saver.close()


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("higher", "best"), [(True, 2), (False, 1)])
def test_keeps_the_last_and_the_best(tmp_path, higher, best):
    states = trained(5)
    saver = Checkpointer(tmp_path, CheckpointConfig(keep_last=1), higher_is_better=higher)
    for step, value in [(1, 0.1), (2, 0.9), (3, 0.4), (4, None), (5, 0.3)]:
        saver.save(step, states[step], {}, value)
    saver.wait()
    kept = sorted(int(folder.name) for folder in tmp_path.iterdir() if folder.name.isdigit())
    saver.close()
    assert kept == [best, 5]


def test_a_step_saved_before_it_was_measured_can_still_be_best(tmp_path):
    state = trained(1)[1]
    saver = Checkpointer(tmp_path, CheckpointConfig(keep_last=1), higher_is_better=True)
    saver.save(1, state, {})
    saver.wait()
    saver.save(1, state, {}, 0.9)
    saver.save(1, state, {})
    for step, value in ((2, 0.5), (3, 0.4)):
        saver.save(step, state, {}, value)
    saver.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 3]


def test_missing_and_misfitting_checkpoints_are_named(tmp_path):
    state = trained(1)[1]
    saver = Checkpointer(tmp_path, CheckpointConfig(), higher_is_better=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        saver.restore(state)
    saver.save(1, state, {})
    saver.wait()
    other = TrainState.create({"kernel": np.zeros((2, 2), np.float32)}, optax.sgd(1.0))
    with pytest.raises(CheckpointError, match="step 1 cannot be restored"):
        saver.restore(other)
    saver.close()
