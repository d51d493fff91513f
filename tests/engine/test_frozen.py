"""A step trains what is not frozen, and computes, holds and saves nothing for the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import tiny
from support.frozen_cases import STACKED, assert_equal, leaves

from jaxdistill.config.schema import CheckpointConfig, TrainConfig
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.frozen import Frozen, FrozenLayers, merge_parameters, split_parameters
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.optimizer import OPTIMIZERS, make_optimizer
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.errors import CheckpointError
from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import parameter_shardings, state_shardings

# A frozen embedding and classifier, against gradients of everything and updates set to zero.
FREEZE = ("embedding", "classifier")
BATCH = tiny.make_batch(16, seed=0)
TEACHER = tiny.init(1)


def optimizer():
    return optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2))


def zeroed(accumulate):
    """Train all, and undo what is frozen: the clipping, too, is of the trained part alone."""
    labels = {"student": {name: name in FREEZE for name in tiny.init(0)}, "projections": {}}
    made = optax.partition({False: optimizer(), True: optax.set_to_zero()}, labels)
    step = make_train_step(
        tiny.apply, made, tiny.objective(), teacher=tiny.apply, accumulate=accumulate, ema=0.5
    )
    state = TrainState.create(tiny.init(0), made, ema=True)
    return run(jax.jit(step), state, TEACHER), lambda state: (state.params, state.ema)


def begin(accumulate=1, ema=True):
    trained, frozen = split_parameters(tiny.init(0), FREEZE)
    step = make_train_step(
        tiny.apply,
        optimizer(),
        tiny.objective(),
        teacher=tiny.apply,
        accumulate=accumulate,
        ema=0.5,
    )
    state = TrainState.create(trained, optimizer(), ema=ema)
    return step, state, Frozen({"teacher": TEACHER}, frozen)


def run(step, state, frozen, count=3):
    for index in range(count):
        state, metrics = step(state, frozen, tiny.make_batch(16, index))
    return state, metrics


def jitted(step, state, frozen):
    return run(jax.jit(step, donate_argnums=0), state, frozen)


def on_a_mesh(step, state, frozen):
    mesh = make_mesh(2, fsdp=4)
    of = state_shardings(state, None, mesh)
    frozen_sharding = Frozen(
        parameter_shardings(frozen.teachers, None, mesh),
        parameter_shardings(frozen.student, None, mesh),
    )
    compiled = compilation.compile_step(
        step, mesh, state_sharding=of, frozen_sharding=frozen_sharding
    )
    return run(compiled, jax.device_put(state, of), jax.device_put(frozen, frozen_sharding))


def pmapped(step, state, frozen):
    devices = jax.devices()[:4]
    state, frozen = (compilation.replicate(tree, devices) for tree in (state, frozen))
    state, metrics = run(compilation.pmap_step(step, devices), state, frozen)
    return compilation.unreplicate(state), metrics


@pytest.mark.mostly_slow
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("where", [jitted, on_a_mesh, pmapped])
def test_the_rest_is_trained_as_if_updates_were_set_to_zero(where, accumulate):
    (expected, told), of = zeroed(accumulate)
    step, state, frozen = begin(accumulate)
    (state, metrics) = where(step, state, frozen)
    for tree, theirs in zip((state.params, state.ema), of(expected), strict=True):
        ours = merge_parameters(tree["student"], frozen.student)
        assert set(leaves(tree["student"])) == {"kernel"}
        for name, leaf in leaves(ours).items():
            np.testing.assert_allclose(leaf, theirs["student"][name], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value(), told["loss"].value(), rtol=1e-5)
    assert not np.allclose(state.params["student"]["kernel"], tiny.init(0)["kernel"], atol=1e-3)


def test_state_and_norm_are_of_the_trained_part_alone():
    step, state, frozen = begin()
    shapes = [leaf.shape for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state))]
    assert sorted(shapes) == [(), *[(tiny.WIDTH, tiny.WIDTH)] * 4]
    _, metrics = jax.jit(step)(state, frozen, BATCH)

    def loss(kernel):
        params = {**tiny.init(0), "kernel": kernel}
        one = TrainState.create(params, optax.sgd(0.0))
        plain = make_train_step(tiny.apply, optax.sgd(0.0), tiny.objective(), teacher=tiny.apply)
        return plain(one, TEACHER, BATCH)[1]["loss"].value()

    expected = np.linalg.norm(jax.grad(loss)(tiny.init(0)["kernel"]))
    np.testing.assert_allclose(metrics["gradient_norm"].value(), expected, rtol=1e-5)


def test_the_step_has_no_product_for_what_is_frozen_below():
    """With all but the classifier frozen, nothing of the width passes backward."""
    whole = tiny.init(0)

    def products(freeze):
        trained, frozen = split_parameters(whole, freeze)
        step = make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply)
        state = TrainState.create(trained, optax.sgd(1.0))
        text = str(jax.make_jaxpr(step)(state, Frozen({"teacher": TEACHER}, frozen), BATCH))
        return text.count("dot_general")

    # Forward of both models, and backward: of the classifier, its input, pooling and kernel.
    assert products(()) - products(("embedding",)) == 1
    assert products(("embedding", "kernel")) <= products(()) - 4


def test_a_single_teacher_may_be_given_as_it_is():
    step = make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply)
    state = TrainState.create(tiny.init(0), optax.sgd(1.0))
    bare, named = (
        jax.jit(step)(state, frozen, BATCH)[0] for frozen in (TEACHER, Frozen({"teacher": TEACHER}))
    )
    assert_equal(bare.params, named.params)
    with pytest.raises(ValueError, match=r"frozen.teachers: got \['other'\], expected 'teacher'"):
        step(state, Frozen({"other": TEACHER}), BATCH)


def test_the_student_that_writes_is_whole():
    step, state, frozen = begin()
    seen = []

    def write(params, batch, rng):
        seen.append({name: leaf.shape for name, leaf in params.items()})
        return batch

    jax.jit(make_on_policy_step(step, write, 0.5))(state, frozen, BATCH)
    assert seen[0] == {name: leaf.shape for name, leaf in tiny.init(0).items()}


def test_modules_of_flax_are_split_too():
    graph, params = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    trained, frozen = split_parameters(params, ["kernel"])
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [(3,)]
    merged = nnx.merge(graph, merge_parameters(trained, frozen))
    np.testing.assert_array_equal(
        merged(jnp.ones((2, 4))), nnx.merge(graph, params)(jnp.ones((2, 4)))
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_the_rest_as_if_it_were_alone(name):
    """Layers of a stack, too, with the rates of the layers that they are."""
    config = TrainConfig(
        optimizer=name,
        learning_rate=0.1,
        warmup=0,
        weight_decay=0,
        layer_decay=0.5,
        freeze=(r"/[02]$", "embed"),
    )
    whole = {"student": jax.tree.map(jnp.asarray, STACKED), "projections": {}}
    params, frozen = split_parameters(whole, config.freeze)
    made = make_optimizer(config, whole, 10)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = made.update(gradients, made.init(params), params)
    after = merge_parameters(optax.apply_updates(params, updates), frozen)["student"]
    moved = np.asarray(after["layers"]["up"]["kernel"] - STACKED["layers"]["up"]["kernel"])
    np.testing.assert_array_equal(moved[::2], 0)
    assert (np.abs(moved[1::2]) > 0).all()
    if name in ("adam", "sgd"):
        np.testing.assert_allclose(np.abs(moved[3]) / np.abs(moved[1]), 4.0, rtol=1e-3)


def saved(folder, state):
    saver = Checkpointer(folder, CheckpointConfig(), higher_is_better=True)
    saver.save(1, state, {})
    saver.wait()
    return saver


def test_a_checkpoint_holds_what_is_trained_and_comes_back(tmp_path):
    step, first, frozen = begin()
    state, _ = jitted(step, jax.tree.map(jnp.copy, first), frozen)
    restored, _ = saved(tmp_path, state).restore(first)
    assert_equal(restored.params, state.params)
    assert_equal(jax.tree.leaves(restored.opt_state), jax.tree.leaves(state.opt_state))


def test_a_checkpoint_takes_no_room_for_what_is_frozen(tmp_path):
    noise = np.random.default_rng(0).normal(size=2**18).astype(np.float32)  # 1 MiB
    trained, _ = split_parameters({"body": noise, "head": noise[:8]}, ["body"])
    state = TrainState.create(trained, optax.adam(1.0), ema=True)
    saved(tmp_path, state).close()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 2**16


@pytest.mark.parametrize("old", [True, False])
def test_a_checkpoint_of_another_split_is_refused(tmp_path, old):
    """Also one of a version that kept everything in the state."""
    _, first, _ = begin()
    whole = TrainState.create(tiny.init(0), optimizer(), ema=True)
    written, like = (whole, first) if old else (first, whole)
    with pytest.raises(CheckpointError, match=r"step 1 cannot be restored: .*start over"):
        saved(tmp_path, written).restore(like)


def test_partly_frozen_layers_are_saved_as_they_are(tmp_path):
    trained, frozen = split_parameters(STACKED, [r"/[02]$"])
    assert isinstance(frozen["layers"]["up"]["kernel"], FrozenLayers)
    state = TrainState.create(jax.tree.map(jnp.asarray, trained), optax.adam(1.0))
    restored, _ = saved(tmp_path, state).restore(state)
    assert_equal(restored.params, state.params)
    assert restored.params["student"]["layers"]["up"]["kernel"].shape == (2, 2, 2)


def test_several_teachers_teach_by_name():
    """Each term reads its own teacher, with the taps that it asks for."""
    soft, hidden = (tiny.objective().terms[name] for name in ("soft", "hidden"))
    terms = {
        "big": dataclasses.replace(soft, teacher="big"),
        "small": dataclasses.replace(hidden, teacher="small"),
    }
    asked = {}

    def named(name):
        def apply(params, batch, *, taps, **options):
            asked[name] = taps
            return tiny.apply(params, batch, taps=taps)

        return apply

    step = make_train_step(
        tiny.apply,
        optax.sgd(1.0),
        Objective(terms),
        teacher={n: named(n) for n in ("big", "small")},
    )
    state = TrainState.create(tiny.init(0), optax.sgd(1.0))
    teachers = {"big": tiny.init(1), "small": tiny.init(2)}
    _, metrics = jax.jit(step)(state, Frozen(teachers), BATCH)
    assert asked == {"big": (), "small": ("layers.0.hidden",)}
    for name, term, params in (("big", soft, 1), ("small", hidden, 2)):
        alone = make_train_step(
            tiny.apply, optax.sgd(1.0), Objective({name: term}), teacher=tiny.apply
        )
        _, expected = jax.jit(alone)(state, tiny.init(params), BATCH)
        np.testing.assert_allclose(metrics[name].value(), expected[name].value(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"got \['big'\], but the term 'small' reads 'small'"):
        make_train_step(tiny.apply, optax.sgd(1.0), Objective(terms), teacher={"big": tiny.apply})
