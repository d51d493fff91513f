"""What a run begins with is its own, and what it hands on is the average where it keeps one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill.engine.state import TrainState


def begin(**options):
    given = {
        "student": {"kernel": jnp.ones(3)},
        "projections": {"map": jnp.ones(4)},
        "model_state": {"mean": jnp.ones(5)},
        "method_state": {"own": jnp.ones(6)},
    }
    return given, TrainState.create(optimizer=optax.adam(0.1), **given, **options)


def test_a_state_that_is_donated_leaves_what_it_was_made_from():
    given, state = begin(ema=True)
    parts = (state.params, state.ema, state.model_state, state.method_state)
    after = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(parts)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(parts))
    for leaf in jax.tree.leaves(given):
        np.testing.assert_array_equal(leaf, np.ones(leaf.shape))
    assert {leaf.size for leaf in jax.tree.leaves(after)} == {3, 4, 5, 6}


def test_the_optimizer_and_the_average_are_of_all_that_is_trained():
    _, state = begin(ema=True)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state))
    assert shapes == [(), (3,), (3,), (4,), (4,)]
    assert jax.tree.structure(state.ema) == jax.tree.structure(state.params)
    assert int(state.step) == 0


def test_the_student_is_the_average_where_there_is_one():
    for ema in (False, True):
        _, state = begin(ema=ema)
        chosen = state.ema if ema else state.params
        assert state.student is chosen["student"]
        assert (state.ema is not None) == ema


def test_a_seed_or_a_key_begins_the_draws():
    words = [jax.random.key_data(begin(seed=seed)[1].rng) for seed in (0, 3, jax.random.key(3))]
    np.testing.assert_array_equal(words[1], words[2])
    assert (words[0] != words[1]).any()
