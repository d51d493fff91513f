"""What a term carries from step to step: under every way to run a step, and in checkpoints."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny

from jaxdistill.config.schema import CheckpointConfig
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Objective, Term, task_term
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import state_shardings

TEACHER, STEPS = tiny.init(1), 3
BATCHES = [tiny.make_batch(16, seed, short=False) for seed in range(STEPS)]


def centered(student, teacher, batch, *, step, projections, state):
    """Distance to logits without their running mean, of which the last step's is taken."""
    del step, projections
    values = ((student.logits - teacher.logits + state["mean"][None]) ** 2).mean(-1)
    mean = 0.5 * state["mean"] + 0.5 * (teacher.logits + 0 * student.logits).mean(0)
    return Mean.of(values, batch["weight"]), {"mean": mean, "count": state["count"] + 1}


def begin(accumulate=1, function=centered):
    terms = {"own": Term(function, stateful=True), "hard": task_term()}
    made = optax.sgd(0.1)
    step = make_train_step(
        tiny.apply, made, Objective(terms), teacher=tiny.apply, accumulate=accumulate
    )
    first = {"own": {"mean": jnp.zeros(tiny.CLASSES), "count": jnp.int32(0)}}
    return step, TrainState.create(tiny.init(0), made, method_state=first)


def run(step, state, teacher=TEACHER):
    losses = []
    for batch in BATCHES:
        state, metrics = step(state, teacher, batch)
        losses.append(float(metrics["own"].value()))
    return state, losses


def expected(accumulate=1):
    """The running mean in NumPy, microbatch by microbatch."""
    mean = np.zeros(tiny.CLASSES)
    for batch in BATCHES:
        logits = np.asarray(tiny.apply(TEACHER, batch).logits, np.float64)
        for part in range(accumulate):
            mean = 0.5 * mean + 0.5 * logits[part::accumulate].mean(0)
    return mean


@pytest.mark.mostly_slow
@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_goes_from_step_to_step_and_through_microbatches(accumulate):
    step, state = begin(accumulate)
    state, _ = run(jax.jit(step, donate_argnums=0), state)
    own = state.method_state["own"]
    np.testing.assert_allclose(own["mean"], expected(accumulate), rtol=1e-5)
    assert own["count"] == STEPS * accumulate


def test_a_loss_reads_what_the_step_before_left():
    step, state = begin()
    _, losses = run(jax.jit(step), state)
    params, mean = tiny.init(0), np.zeros(tiny.CLASSES)
    state = begin()[1]
    for batch, loss in zip(BATCHES, losses, strict=True):
        params = state.params["student"]
        ours, theirs = (tiny.apply(p, batch).logits for p in (params, TEACHER))
        np.testing.assert_allclose(((ours - theirs + mean[None]) ** 2).mean(), loss, rtol=1e-5)
        mean = 0.5 * mean + 0.5 * np.asarray(theirs).mean(0)
        state, _ = jax.jit(step)(state, TEACHER, batch)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_same_on_a_mesh_and_under_pmap(accumulate):
    step, state = begin(accumulate)
    mesh = make_mesh(2, fsdp=2, devices=jax.devices()[:4])
    of = state_shardings(state, None, mesh)
    compiled = compilation.compile_step(step, mesh, state_sharding=of)
    alone, losses = run(jax.jit(step), state)
    spread, on_mesh = run(compiled, jax.device_put(state, of))
    np.testing.assert_allclose(on_mesh, losses, rtol=1e-5)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(spread.method_state))
    devices = jax.devices()[:4]
    fresh = begin(accumulate)[1]  # The step before took the buffers of the first.
    copies, teacher = (compilation.replicate(tree, devices) for tree in (fresh, TEACHER))
    copies, _ = run(compilation.pmap_step(step, devices), copies, teacher)
    for found in (spread, compilation.unreplicate(copies)):
        own = found.method_state["own"]
        assert own["count"] == STEPS * accumulate
        assert own["count"].dtype == jnp.int32
        if accumulate == 1 or found is spread:
            np.testing.assert_allclose(own["mean"], alone.method_state["own"]["mean"], rtol=1e-5)
    every = copies.method_state["own"]["mean"]
    np.testing.assert_array_equal(every, np.broadcast_to(every[:1], every.shape))


def test_no_gradient_flows_through_it():
    def learned(student, teacher, batch, *, state, **_):
        return Mean.of((state * student.logits).sum(-1)), state + student.logits.mean()

    terms = {"own": Term(learned, stateful=True)}
    step = make_train_step(tiny.apply, optax.sgd(0.1), Objective(terms), teacher=tiny.apply)
    state = TrainState.create(tiny.init(0), optax.sgd(0.1), method_state={"own": jnp.float32(0)})
    after, metrics = jax.jit(step)(state, TEACHER, BATCHES[0])
    assert metrics["gradient_norm"].value() == 0
    assert after.method_state["own"] != 0


def test_a_checkpoint_brings_it_back(tmp_path):
    step, first = begin()
    state, _ = run(jax.jit(step), first)
    saver = Checkpointer(tmp_path, CheckpointConfig(), higher_is_better=True)
    saver.save(3, state, {})
    saver.wait()
    restored, _ = saver.restore(first)
    jax.tree.map(np.testing.assert_array_equal, restored.method_state, state.method_state)


def test_states_that_are_missing_or_change_their_form_are_named():
    def grows(student, teacher, batch, *, state, **_):
        return Mean.of(student.logits.mean(-1)), {**state, "mean": jnp.zeros(7)}

    step, state = begin(function=grows)
    with pytest.raises(ValueError, match=r"term 'own' returned .*\(7,\).*expected what it got"):
        jax.jit(step)(state, TEACHER, BATCHES[0])
    bare = TrainState.create(tiny.init(0), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"got \[\], but the term 'own' carries a state"):
        jax.jit(step)(bare, TEACHER, BATCHES[0])


class Pair(NamedTuple):
    """A state that is equal to a plain tuple of the same numbers."""

    mean: jax.Array
    count: jax.Array


@jax.tree_util.register_pytree_node_class
class Plain:
    """A state whose objects are never equal, as those of most classes."""

    def __init__(self, mean):
        self.mean = mean

    def tree_flatten(self):
        return (self.mean,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def carried(before, after):
    """Run a step whose only term turns one state into another."""
    terms = {
        "own": Term(lambda student, *_, **__: (Mean.of(student.logits[:, 0]), after), stateful=True)
    }
    step = make_train_step(tiny.apply, optax.sgd(0.1), Objective(terms), teacher=tiny.apply)
    state = TrainState.create(tiny.init(0), optax.sgd(0.1), method_state={"own": before})
    return jax.eval_shape(step, state, TEACHER, BATCHES[0])[0].method_state["own"]


def test_a_state_may_be_any_tree_and_stays_one_of_its_kind():
    zero, three = jnp.float32(0), jnp.zeros(3)
    assert carried(Plain(three), Plain(three + 1)).mean.shape == (3,)
    assert isinstance(carried(Pair(three, zero), Pair(three, zero)), Pair)
    for after in ((three, zero), Pair(three, jnp.int32(0)), Pair(zero, zero), [three, zero]):
        with pytest.raises(ValueError, match=r"term 'own' returned .* expected what it got, Pair"):
            carried(Pair(three, zero), after)
