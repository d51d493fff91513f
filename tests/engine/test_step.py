"""The step's loss and gradient do not depend on how the batch is split, padded or placed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny

from jaxdistill import losses
from jaxdistill.engine.objective import Objective, logits_term, task_term
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_eval_step, make_train_step
from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import replicated

TEACHER = tiny.init(1)
BATCH = tiny.make_batch(16, seed=0)


def one_update(*, accumulate=1, run=None, batch=BATCH, objective=None):
    """Return metrics and parameters after one plain gradient step of size 1."""
    objective = objective or tiny.objective()
    step = make_train_step(
        tiny.apply, optax.sgd(1.0), objective, teacher=tiny.apply, accumulate=accumulate
    )
    state = TrainState.create(tiny.init(0), optax.sgd(1.0))
    state, metrics = (run or jax.jit(step))(*((step,) if run else ()), state, TEACHER, batch)
    values = {name: float(mean.value()) for name, mean in metrics.items()}
    return values, jax.device_get(state.params["student"])


def under_mesh(devices, step, state, teacher, batch):
    mesh = make_mesh(devices)
    compiled = compilation.compile_step(step, mesh)
    state = jax.device_put(state, replicated(mesh))
    return compiled(state, teacher, compilation.place_batch(batch, mesh))


def under_pmap(devices, step, state, teacher, batch):
    chosen = jax.devices()[:devices]
    compiled = compilation.pmap_step(step, chosen)
    state, metrics = compiled(
        compilation.replicate(state, chosen), compilation.replicate(teacher, chosen), batch
    )
    return compilation.unreplicate(state), metrics


def reference_loss(params):
    """The objective in plain NumPy-style arithmetic over the whole batch, divided once."""
    outputs = tiny.apply(params, BATCH, taps=("layers.0.hidden",))
    targets = tiny.apply(TEACHER, BATCH, taps=("layers.0.hidden",))
    weight = BATCH["weight"]
    log_p = jax.nn.log_softmax(targets.logits / 2.0)
    log_q = jax.nn.log_softmax(outputs.logits / 2.0)
    kl = 4.0 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    chosen = np.eye(tiny.CLASSES, dtype=np.float32)[BATCH["labels"]]
    entropy = -(jax.nn.log_softmax(outputs.logits) * chosen).sum(-1)
    mask = BATCH["attention_mask"] * weight[:, None]
    squared = ((outputs.hidden - targets.hidden) ** 2).mean(-1)
    return (
        0.7 * (kl * weight).sum() / weight.sum()
        + 0.3 * (entropy * weight).sum() / weight.sum()
        + 2.0 * (squared * mask).sum() / mask.sum()
    )


def assert_same(got, expected, tolerance=1e-6):
    values, params = got
    expected_values, expected_params = expected
    for name, value in expected_values.items():
        np.testing.assert_allclose(
            values[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        params,
        expected_params,
    )


@pytest.mark.slow
def test_matches_an_independent_loss_and_gradient():
    values, params = one_update()
    loss, gradient = jax.jit(jax.value_and_grad(reference_loss))(tiny.init(0))
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-6)
    expected = jax.tree.map(lambda p, g: np.asarray(p - g), tiny.init(0), gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing(accumulate):
    assert_same(one_update(accumulate=accumulate), one_update())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("devices", [1, 8])
def test_jit_on_a_mesh_changes_nothing(devices):
    assert_same(one_update(run=functools.partial(under_mesh, devices)), one_update())


@pytest.mark.slow
def test_accumulation_on_a_mesh_changes_nothing():
    run = functools.partial(under_mesh, 4)
    assert_same(one_update(accumulate=4, run=run), one_update())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("devices", [1, 8])
def test_pmap_changes_nothing(devices):
    assert_same(one_update(run=functools.partial(under_pmap, devices)), one_update())


@pytest.mark.slow
def test_pmap_with_accumulation_changes_nothing():
    run = functools.partial(under_pmap, 4)
    assert_same(one_update(accumulate=2, run=run), one_update())


@pytest.mark.slow
def test_padding_rows_change_nothing():
    kept = int(BATCH["weight"].sum())
    sliced = {name: leaf[:kept] for name, leaf in BATCH.items()}
    assert_same(one_update(batch=BATCH), one_update(batch=sliced))


@pytest.mark.slow
def test_averaging_per_microbatch_would_be_noticed():
    """The usual mistake, a mean of microbatch means, differs on this batch."""
    halves = [{name: leaf[i::2] for name, leaf in BATCH.items()} for i in range(2)]
    wrong = np.mean([one_update(batch=half)[0]["loss"] for half in halves])
    assert abs(wrong - one_update()[0]["loss"]) > 1e-3


def test_metrics_are_means_of_their_own_weight():
    step = make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply)
    _, metrics = jax.jit(step)(TrainState.create(tiny.init(0), optax.sgd(1.0)), TEACHER, BATCH)
    assert metrics["hard"].weight == BATCH["weight"].sum()
    assert metrics["hidden"].weight == (BATCH["attention_mask"] * BATCH["weight"][:, None]).sum()


@pytest.mark.slow
def test_invalid_labels_are_counted_and_take_no_part():
    broken = dict(BATCH, labels=BATCH["labels"].copy())
    broken["labels"][0], broken["labels"][1] = -1, tiny.CLASSES
    values, params = one_update(batch=broken)
    assert values["invalid_labels"] == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    whole = {name: leaf[2:] for name, leaf in broken.items()}
    hard = Objective({"hard": task_term()})
    expected, _ = one_update(batch=whole, objective=hard)
    got, _ = one_update(batch=broken, objective=hard)
    np.testing.assert_allclose(got["hard"], expected["hard"], rtol=1e-6)


def test_teacher_gets_no_gradient_and_stays():
    step = make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply)

    def loss(teacher):
        state = TrainState.create(tiny.init(0), optax.sgd(1.0))
        return step(state, teacher, BATCH)[1]["loss"].total

    gradient = jax.jit(jax.grad(loss))(TEACHER)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_one_trace_for_one_shape():
    traces = 0

    def counted(*args, **options):
        nonlocal traces
        traces += 1
        return tiny.apply(*args, **options)

    step = make_train_step(counted, optax.adam(1e-2), tiny.objective(), teacher=tiny.apply)
    compiled = compilation.compile_step(step)
    state = TrainState.create(tiny.init(0), optax.adam(1e-2))
    for seed in range(4):
        state, _ = compiled(state, TEACHER, tiny.make_batch(16, seed))
    assert traces == 1


def test_schedules_move_with_the_step():
    weight = optax.linear_schedule(1.0, 0.0, 2)
    objective = Objective({"soft": logits_term(losses.forward_kl, weight=weight)})
    step = jax.jit(make_train_step(tiny.apply, optax.sgd(0.0), objective, teacher=tiny.apply))
    state = TrainState.create(tiny.init(0), optax.sgd(0.0))
    ratios = []
    for _ in range(3):
        state, metrics = step(state, TEACHER, BATCH)
        ratios.append(float(metrics["loss"].value() / metrics["soft"].value()))
    np.testing.assert_allclose(ratios, [1.0, 0.5, 0.0], atol=1e-6)


def test_moving_average_follows_the_parameters():
    step = make_train_step(
        tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply, ema=0.75
    )
    state = TrainState.create(tiny.init(0), optax.sgd(1.0), ema=True)
    after, _ = jax.jit(step)(state, TEACHER, BATCH)
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, state.params, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, expected)


def test_eval_step_sums_to_the_mean_of_the_whole():
    evaluate = jax.jit(make_eval_step(tiny.apply, Objective({"hard": task_term()})))
    parts = [{name: leaf[start : start + 4] for name, leaf in BATCH.items()} for start in (0, 4, 8)]
    summed = sum(
        (evaluate(TEACHER, part)[1]["loss"] for part in parts[1:]),
        start=evaluate(TEACHER, parts[0])[1]["loss"],
    )
    whole = evaluate(TEACHER, {name: leaf[:12] for name, leaf in BATCH.items()})[1]["loss"]
    np.testing.assert_allclose(summed.value(), whole.value(), rtol=1e-6)


def test_missing_teacher_and_indivisible_batch_are_named():
    with pytest.raises(ValueError, match=r"teacher: got None.*'soft'"):
        make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective())
    with pytest.raises(ValueError, match="3 microbatches for 16 rows"):
        one_update(accumulate=3)
    with pytest.raises(ValueError, match="multiple of 8"):
        one_update(run=functools.partial(under_pmap, 8), batch=tiny.make_batch(12, 0))
    with pytest.raises(ValueError, match="multiple of 8"):
        one_update(run=functools.partial(under_mesh, 8), batch=tiny.make_batch(12, 0))
