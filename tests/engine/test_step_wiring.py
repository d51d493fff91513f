"""What the step hands to models: its masks, who trains, which rows go together, what it tells."""

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
from jaxdistill.models.outputs import Outputs
from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh

ROWS, WIDTH = 16, 32
BATCH = {
    "rows": np.arange(ROWS, dtype=np.int32),
    "labels": np.ones((ROWS, WIDTH), np.float32),
    "weight": np.ones(ROWS, np.float32),
}


def masked(params, batch, *, rng=None, train=False, taps=()) -> Outputs:
    """Give every row a parameter of its own, under one mask for all rows that are seen at once."""
    mask = jax.random.bernoulli(rng, 0.5, (WIDTH,)) if train else jnp.ones(WIDTH)
    return Outputs(logits=params["own"][batch["rows"]] * mask[None])


def masks(steps: int = 1, *, accumulate: int = 1, devices: int | None = None, seed: int = 0):
    """Return the mask of each row at each step, `[steps, ROWS, WIDTH]`, read off the updates."""

    def squared(logits, labels):
        return ((logits - labels) ** 2).mean(-1)

    optimizer = optax.sgd(1.0)
    objective = Objective({"hard": task_term(squared)})
    step = make_train_step(masked, optimizer, objective, accumulate=accumulate)
    state = TrainState.create({"own": jnp.zeros((ROWS, WIDTH))}, optimizer, seed=seed)
    if devices is None:
        run = jax.jit(step)
    else:
        chosen = jax.devices()[:devices]
        run = compilation.pmap_step(step, chosen)
        state = compilation.replicate(state, chosen)
    found, before = [], np.zeros((ROWS, WIDTH))
    for _ in range(steps):
        teacher = {} if devices is None else compilation.replicate({}, chosen)
        state, _ = run(state, teacher, BATCH)
        own = state.params["student"]["own"]
        after = np.array(own if devices is None else own[0])
        found.append(after != before)
        before = after
    return np.stack(found)


def groups(rows: np.ndarray) -> list[list[int]]:
    """Return which rows have the same mask, in the order of their first row."""
    found: dict[bytes, list[int]] = {}
    for row, mask in enumerate(rows):
        found.setdefault(mask.tobytes(), []).append(row)
    return list(found.values())


def test_every_step_has_another_mask_and_a_seed_the_same_ones_again():
    first = masks(3)
    assert all(len(groups(rows)) == 1 for rows in first)
    assert len(groups(first[:, 0])) == 3
    assert abs(first.mean() - 0.5) < 0.2
    np.testing.assert_array_equal(masks(3), first)
    assert (masks(3, seed=1) != first).any()


@pytest.mark.parametrize("accumulate", [2, 4])
def test_every_microbatch_has_another_mask_and_every_nth_row(accumulate):
    rows = masks(2, accumulate=accumulate)
    expected = [list(range(part, ROWS, accumulate)) for part in range(accumulate)]
    assert groups(rows[0]) == groups(rows[1]) == expected
    assert len(groups(rows.reshape(-1, WIDTH))) == 2 * accumulate


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_device_has_another_mask(accumulate):
    """Under pmap devices hold contiguous rows."""
    own = ROWS // 4
    expected = [
        list(range(device * own + part, (device + 1) * own, accumulate))
        for device in range(4)
        for part in range(accumulate)
    ]
    assert groups(masks(accumulate=accumulate, devices=4)[0]) == expected


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_runs_as_in_evaluation_and_the_student_as_in_training(accumulate):
    def model(side):
        def apply(params, batch, *, rng, train, taps):
            seen.add((side, train, rng is not None))
            return tiny.apply(params, batch, taps=taps)

        return apply

    seen: set[tuple[str, bool, bool]] = set()
    step = make_train_step(
        model("student"),
        optax.sgd(1.0),
        tiny.objective(),
        teacher=model("teacher"),
        accumulate=accumulate,
    )
    state = TrainState.create(tiny.init(0), optax.sgd(1.0))
    jax.eval_shape(step, state, tiny.init(1), tiny.make_batch(16, 0))
    assert seen == {("student", True, True), ("teacher", False, False)}


@pytest.mark.slow
def test_the_teachers_logits_are_those_of_its_evaluation():
    """A teacher with dropout, or with statistics of the batch, would teach another thing."""

    def noisy(params, batch, *, rng=None, train=False, taps=()):
        outputs = tiny.apply(params, batch, taps=taps)
        return Outputs(logits=outputs.logits * (2.0 if train else 1.0))

    objective = Objective({"soft": logits_term(losses.forward_kl)})
    step = make_train_step(tiny.apply, optax.sgd(1.0), objective, teacher=noisy)
    batch, teacher = tiny.make_batch(16, 0), tiny.init(1)
    _, metrics = jax.jit(step)(TrainState.create(tiny.init(0), optax.sgd(1.0)), teacher, batch)
    sides = (tiny.apply(params, batch).logits for params in (tiny.init(0), teacher))
    expected = np.average(losses.forward_kl(*sides), weights=batch["weight"])
    np.testing.assert_allclose(metrics["soft"].value(), expected, rtol=1e-6)


def test_an_evaluation_runs_without_masks_and_without_statistics_of_the_batch():
    seen = []

    def model(params, batch, *, rng, train, taps):
        seen.append((train, rng))
        return tiny.apply(params, batch, taps=taps)

    evaluate = make_eval_step(model, Objective({"hard": task_term()}))
    jax.eval_shape(evaluate, tiny.init(0), tiny.make_batch(16, 0))
    assert seen == [(False, None)]


def test_labels_of_rows_that_only_fill_are_no_invalid_ones():
    batch = tiny.make_batch(16, 0)
    batch["labels"] = batch["labels"].copy()
    batch["labels"][batch["weight"] == 0] = -1
    batch["labels"][1] = tiny.CLASSES
    step = make_train_step(tiny.apply, optax.sgd(1.0), Objective({"hard": task_term()}))
    _, metrics = jax.jit(step)(TrainState.create(tiny.init(0), optax.sgd(1.0)), {}, batch)
    assert float(metrics["invalid_labels"].value()) == 1


@pytest.mark.mostly_slow
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradients_norm_is_told_before_it_is_clipped_or_scaled(accumulate):
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.adam(0.1))
    step = make_train_step(
        tiny.apply, optimizer, tiny.objective(), teacher=tiny.apply, accumulate=accumulate
    )
    batch, teacher = tiny.make_batch(16, 0), tiny.init(1)
    state = TrainState.create(tiny.init(0), optimizer)
    _, metrics = jax.jit(step)(state, teacher, batch)
    plain = make_train_step(tiny.apply, optax.sgd(1.0), tiny.objective(), teacher=tiny.apply)
    after, _ = jax.jit(plain)(TrainState.create(tiny.init(0), optax.sgd(1.0)), teacher, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), tiny.init(0), after.params["student"])
    expected = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["gradient_norm"].value(), expected, rtol=1e-4)
    assert expected > 0.01


def counting(params, batch, *, rng=None, train=False, taps=(), model_state=None) -> Outputs:
    """A student whose state remembers the mean of the labels it saw last, and how often it saw."""
    outputs = tiny.apply(params, batch, taps=taps)
    state = {"mean": batch["labels"].astype(jnp.float32).mean(), "seen": model_state["seen"] + 1}
    return Outputs(logits=outputs.logits, model_state=state)


@pytest.mark.slow
def test_statistics_of_the_batch_are_averaged_over_devices():
    devices = jax.devices()[:4]
    objective = Objective({"hard": task_term()})
    step = compilation.pmap_step(make_train_step(counting, optax.sgd(1.0), objective), devices)
    start = {"mean": jnp.float32(0), "seen": jnp.float32(0)}
    state = TrainState.create(tiny.init(0), optax.sgd(1.0), model_state=start)
    batch = tiny.make_batch(16, 0)
    after, _ = step(
        compilation.replicate(state, devices), compilation.replicate({}, devices), batch
    )
    assert len(set(batch["labels"].reshape(4, 4).mean(1))) > 1
    expected = batch["labels"].mean()
    np.testing.assert_allclose(after.model_state["mean"], [expected] * 4, rtol=1e-6)
    np.testing.assert_array_equal(after.model_state["seen"], [1.0] * 4)


def test_statistics_go_from_microbatch_to_microbatch_and_from_step_to_step():
    objective = Objective({"hard": task_term()})
    step = jax.jit(make_train_step(counting, optax.sgd(1.0), objective, accumulate=4))
    start = {"mean": jnp.float32(0), "seen": jnp.float32(0)}
    state = TrainState.create(tiny.init(0), optax.sgd(1.0), model_state=start)
    batch = tiny.make_batch(16, 0)
    for count in (1, 2):
        state, _ = step(state, {}, batch)
        assert float(state.model_state["seen"]) == 4 * count
    np.testing.assert_allclose(state.model_state["mean"], batch["labels"][3::4].mean(), rtol=1e-6)


def test_devices_of_a_mesh_share_one_mask_per_microbatch():
    """Under jit a batch is one, however it is split: the mask does not depend on the devices."""
    alone = masks(accumulate=2)[0]
    optimizer = optax.sgd(1.0)
    objective = Objective({"hard": task_term(lambda x, y: ((x - y) ** 2).mean(-1))})
    step = make_train_step(masked, optimizer, objective, accumulate=2)
    mesh = make_mesh(4)
    state = TrainState.create({"own": jnp.zeros((ROWS, WIDTH))}, optimizer)
    compiled = compilation.compile_step(step, mesh)
    after, _ = compiled(state, {}, compilation.place_batch(BATCH, mesh))
    np.testing.assert_array_equal(np.asarray(after.params["student"]["own"]) != 0, alone)
