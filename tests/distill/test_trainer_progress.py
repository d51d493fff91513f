"""What a stage measures, when it stops, which parameters it hands on, and what a seed decides."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxdistill.config.load import check
from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import Trainer, make_trainer, run_seed
from jaxdistill.models.registry import Model

STEPS = 6
MODEL = {"family": "mlp", "hidden_sizes": [5], "hidden_dropout_prob": 0.0}
TRAIN = {
    "steps": STEPS,
    "batch_size": 16,
    "learning_rate": 0.1,
    "evaluate_every": 1,
    "schedule": "constant",
    "warmup": 0,
}


def configured(**train: Any) -> Config:
    return check(
        {
            "data": {"source": "digits", "train_examples": 64},
            "teacher": {"model": MODEL},
            "student": {"model": MODEL},
            "train": {**TRAIN, **train},
            "telemetry": {"progress": "none", "log_every": 1},
            "parallel": {"data": 1, "compilation_cache": False},
        }
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Dataset, Model]:
    """A few images of digits, and a model with one hidden layer."""
    config = configured()
    dataset = build.load_data(config, tmp_path_factory.mktemp("data"))
    return dataset, build.make_student(config, dataset, None, seed=0)


def trainer_of(toy: tuple[Dataset, Model], **train: Any) -> Trainer:
    config = configured(**train)
    return make_trainer(config, config.train, *toy, stage="baseline")


def scripted(
    trainer: Trainer,
    values: list[float],
    seen: list[Any] | None = None,
    metric: str = "accuracy",
) -> Trainer:
    """Return a trainer whose evaluations give these values, one after another."""
    left = iter(values)

    def evaluate(params: Any, model_state: Any, split: Any) -> tuple[Any, dict[str, float]]:
        if seen is not None:
            seen.append(jax.device_get(jax.tree.map(np.copy, params)))
        return None, {metric: next(left)}

    return dataclasses.replace(trainer, evaluate=evaluate)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


def differ(ours: Any, theirs: Any) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return any(np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-4 for a, b in pairs)


def parameters_by_step(trainer: Trainer, model: Model, seed: int = 0) -> list[Any]:
    """Return the raw parameters before the first step and after each, from the steps alone."""
    start = trainer.start(trainer.layout.lay_out(model), seed)
    state = start.state
    source, found = trainer.make_source(seed), [jax.device_get(state.params["student"])]
    for step in range(STEPS):
        state, _ = trainer.step(state, start.frozen, trainer.place(source[step]))
        found.append(jax.device_get(jax.tree.map(np.copy, state.params["student"])))
    return found


@pytest.fixture(scope="module")
def plain(toy) -> tuple[Trainer, list[Any]]:
    """A trainer, and the parameters after each of its steps."""
    trainer = trainer_of(toy)
    return trainer, parameters_by_step(trainer, toy[1])


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("keep", "step"), [("best", 3), ("last", STEPS)])
def test_a_stage_hands_on_the_best_or_the_last(toy, plain, tmp_path, keep, step):
    trainer, by_step = plain
    train = trainer.train_config.model_copy(update={"keep": keep})
    ranked = dataclasses.replace(
        trainer,
        train_config=train,
        plan=dataclasses.replace(trainer.plan, checkpoint_evaluations=keep == "best"),
    )
    values = [0.1, 0.2, 0.9, 0.3, 0.4, 0.5]
    seen: list[Any] = []
    trained, result = run_seed(scripted(ranked, values, seen), toy[1], tmp_path, 0)
    assert result.steps == STEPS
    assert result.progress.best_step == 3
    for found, expected in zip(seen, by_step[1:], strict=True):
        assert_same(found, expected)
    assert_same(trained.params, by_step[step])
    assert differ(by_step[3], by_step[STEPS])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_averaged_parameters_are_measured_and_handed_on(toy, plain, tmp_path, decay):
    """The average starts at the first parameters and moves a share of the way each step."""
    raw = plain[1]
    average, expected = raw[0], []
    for params in raw[1:]:
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        expected.append(average)
    trainer = trainer_of(toy, ema=decay, keep="last")
    seen: list[Any] = []
    trained, _ = run_seed(scripted(trainer, [0.1] * STEPS, seen), toy[1], tmp_path, 0)
    for found, wanted in zip(seen, expected, strict=True):
        assert_same(found, wanted)
    assert_same(trained.params, expected[-1])
    assert differ(expected[-1], raw[-1])
    # Measured for true, the values are those of the average, too.
    _, values = trainer.evaluate(expected[-1], None, trainer.dataset.validation)
    run_seed(trainer, toy[1], tmp_path / "measured", 0)
    last = rows_of(tmp_path / "measured")[-1]
    assert last["event"] == "evaluation"
    np.testing.assert_allclose(last["loss"], values["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("patience", "values", "stops"),
    [
        (1, [0.5, 0.4, 0.6, 0.6, 0.6, 0.6], 2),
        (2, [0.5, 0.4, 0.3, 0.9, 0.9, 0.9], 3),
        (2, [0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 5),  # a gain starts the count again
        (2, [0.5, 0.5, 0.5, 0.9, 0.9, 0.9], 3),  # the same again is no gain
        (3, [0.5, 0.5, 0.4, 0.5, 0.9, 0.9], 4),
        (None, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], STEPS),
    ],
)
def test_training_stops_after_so_many_evaluations_without_a_gain(
    toy, plain, tmp_path, patience, values, stops
):
    trainer = plain[0]
    plan = dataclasses.replace(trainer.plan, early_stopping=patience)
    patient = dataclasses.replace(trainer, plan=plan)
    _, result = run_seed(scripted(patient, values), toy[1], tmp_path, 0)
    assert result.steps == stops
    measured = [row["accuracy"] for row in rows_of(tmp_path) if row.get("event") == "evaluation"]
    assert measured == values[:stops]


def test_a_smaller_value_is_a_gain_where_smaller_is_better(toy, plain, tmp_path):
    trainer = plain[0]
    plan = dataclasses.replace(trainer.plan, early_stopping=2, higher_is_better=False)
    patient = dataclasses.replace(trainer, plan=plan)
    _, result = run_seed(scripted(patient, [0.9, 0.5, 0.6, 0.5, 0.1, 0.1]), toy[1], tmp_path, 0)
    assert (result.steps, result.progress.best_step) == (4, 4)


def test_of_equals_the_newest_is_best(toy, plain, tmp_path):
    """As among the checkpoints, so that what is handed on is there."""
    values = [0.1, 0.9, 0.3, 0.9, 0.4, 0.5]
    trained, result = run_seed(scripted(plain[0], values), toy[1], tmp_path, 0)
    assert result.progress.best_step == 4
    assert_same(trained.params, plain[1][4])


@pytest.mark.parametrize(("metric", "best"), [("mse", 2), ("pearson", 1)])
def test_the_best_by_the_metric_of_the_configuration_is_kept_and_handed_on(
    toy, plain, tmp_path, metric, best
):
    update = {"task": "regression", "metric": metric}
    config = configured(steps=3).model_copy(update=update)
    keeping = config.checkpoint.model_copy(update={"keep_last": 1})
    config = config.model_copy(update={"checkpoint": keeping})
    plan = dataclasses.replace(
        plain[0].plan, metric=metric, higher_is_better=config.higher_is_better, total_steps=3
    )
    trainer = dataclasses.replace(plain[0], config=config, plan=plan, total_steps=3)
    trained, _ = run_seed(scripted(trainer, [0.9, 0.1, 0.5], metric=metric), toy[1], tmp_path, 0)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {str(best), "3"}
    assert_same(trained.params, plain[1][best])


def test_only_so_many_examples_are_trained_on_the_same_for_every_seed(toy):
    def drawn(split_seed: int) -> np.ndarray:
        config = configured(examples=40)
        data = config.data.model_copy(update={"split_seed": split_seed})
        config = config.model_copy(update={"data": data})
        trainer = make_trainer(config, config.train, *toy, stage="baseline")
        assert len(trainer.dataset.train) == 40
        assert trainer.dataset.validation is toy[0].validation
        assert trainer.make_source(0).steps_per_epoch == trainer.make_source(1).steps_per_epoch == 3
        return trainer.dataset.train.inputs.images

    first, again, other = drawn(0), drawn(0), drawn(1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    whole = {image.tobytes() for image in toy[0].train.inputs.images}
    assert {image.tobytes() for image in first} <= whole


@pytest.mark.slow
def test_a_row_of_the_telemetry_is_the_mean_of_its_steps(toy, tmp_path):
    told = []
    for every in (1, 3):
        config = configured(keep="last", evaluate_every=STEPS)
        telemetry = config.telemetry.model_copy(update={"log_every": every})
        config = config.model_copy(update={"telemetry": telemetry})
        trainer = make_trainer(config, config.train, *toy, stage="baseline")
        run_seed(trainer, toy[1], tmp_path / str(every), 0)
        rows = [row for row in rows_of(tmp_path / str(every)) if "event" not in row]
        assert [row["step"] for row in rows] == list(range(every, STEPS + 1, every))
        told.append(np.array([row["loss"] for row in rows]))
    np.testing.assert_allclose(told[1], told[0].reshape(2, 3).mean(1), rtol=1e-6)


def test_the_dropout_of_a_stage_is_that_of_its_own_configuration(toy):
    config = configured(dropout=0.25)
    finetune = config.train.model_copy(update={"dropout": 0.5})
    config = config.model_copy(update={"finetune": finetune})
    rates = [
        build.make_student(config, toy[0], None, seed=0).config.hidden_dropout_prob,
        build.load_teacher(config, toy[0], training=True, seed=0).config.hidden_dropout_prob,
        build.make_student(configured(), toy[0], None, seed=0).config.hidden_dropout_prob,
    ]
    assert rates == [0.25, 0.5, 0.0]


def test_each_seed_sees_the_data_in_another_order(plain):
    trainer = plain[0]
    orders = []
    for seed in (0, 1, 2, 0):
        source = trainer.make_source(seed)
        assert source.identity["seed"] == seed
        epochs = [source.info(step).index for step in range(2 * source.steps_per_epoch)]
        first, second = np.split(np.concatenate(epochs), 2)
        assert sorted(first) == sorted(second) == list(range(64))
        assert (first != second).any()
        orders.append(tuple(first))
    assert orders[0] == orders[3]
    assert len(set(orders)) == 3


def test_each_seed_draws_other_masks(toy):
    model = {**MODEL, "hidden_dropout_prob": 0.5}
    config = configured()
    config = config.model_copy(
        update={"student": config.student.model_copy(update={"model": model})}
    )
    student = build.make_student(config, toy[0], None, seed=0)
    trainer = make_trainer(config, config.train, toy[0], student, stage="baseline")
    batch = trainer.place(trainer.make_source(0)[0])
    told = []
    for seed in (0, 1, 0):
        start = trainer.start(trainer.layout.lay_out(student), seed)
        _, metrics = trainer.step(start.state, start.frozen, batch)
        told.append(float(metrics["loss"].value()))
    assert told[0] == told[2] != told[1]


def test_the_rate_that_is_told_is_the_one_that_was_used(toy, tmp_path):
    """The telemetry of a step says its own rate, and plain descent moves by it."""
    train = {"schedule": "linear", "warmup": 2, "keep": "last", "evaluate_every": STEPS}
    trainer = trainer_of(toy, optimizer="sgd", weight_decay=0, clip_norm=None, **train)
    run_seed(trainer, toy[1], tmp_path, 0)
    rows = [row for row in rows_of(tmp_path) if "event" not in row]
    by_step = parameters_by_step(trainer, toy[1])
    expected = [0.05, 0.1, 0.1, 0.075, 0.05, 0.025]
    for step, row in enumerate(rows):
        assert row["step"] == step + 1
        moved = jax.tree.map(lambda a, b: a - b, by_step[step + 1], by_step[step])
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
        np.testing.assert_allclose(row["learning_rate"], expected[step], rtol=1e-6)
        np.testing.assert_allclose(norm / row["gradient_norm"], expected[step], rtol=1e-4)
