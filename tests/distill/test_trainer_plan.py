"""What a configuration says of how long a stage lasts and when it looks up from its steps."""

from typing import Any

import pytest

from jaxdistill.config.load import check
from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import make_trainer
from jaxdistill.engine.loop import LoopPlan
from jaxdistill.models.registry import Model

MODEL = {"family": "mlp", "hidden_sizes": [5]}


def configured(**train: Any) -> Config:
    return check(
        {
            "data": {"source": "digits", "train_examples": 64},
            "teacher": {"model": MODEL},
            "student": {"model": MODEL},
            "train": {"batch_size": 16, **train},
            "parallel": {"data": 1, "compilation_cache": False},
        }
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Dataset, Model]:
    """A few images of digits, and a model with one hidden layer."""
    config = configured()
    dataset = build.load_data(config, tmp_path_factory.mktemp("data"))
    return dataset, build.make_student(config, dataset, None, seed=0)


def plan_of(toy: tuple[Dataset, Model], config: Config) -> LoopPlan:
    return make_trainer(config, config.train, *toy, stage="baseline").plan


def test_keep_is_what_decides(toy):
    assert plan_of(toy, configured()).checkpoint_evaluations
    assert not plan_of(toy, configured(keep="last")).checkpoint_evaluations


@pytest.mark.parametrize(("metric", "higher"), [("mse", False), ("pearson", True)])
def test_the_metric_of_the_configuration_says_which_way_is_better(toy, metric, higher):
    config = configured()
    config = config.model_copy(update={"task": "regression", "metric": metric})
    plan = plan_of(toy, config)
    assert (plan.metric, plan.higher_is_better) == (metric, higher)


def test_the_configuration_says_how_long_to_wait_and_how_often_to_look(toy):
    plan = plan_of(toy, configured(early_stopping=3, evaluate_every=2, steps=11))
    assert (plan.early_stopping, plan.evaluate_every, plan.total_steps) == (3, 2, 11)
    plan = plan_of(toy, configured(evaluate_every=None, steps=None, epochs=2.5))
    assert (plan.early_stopping, plan.evaluate_every, plan.total_steps) == (None, 4, 10)
    config = configured()
    assert (plan.checkpoint_every, plan.log_every) == (None, config.telemetry.log_every)
    sections = {
        "checkpoint": {"every": 3, "every_seconds": 4.5},
        "telemetry": {"log_every": 5},
        "data": {"prefetch": 6},
    }
    config = config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=values)
            for name, values in sections.items()
        }
    )
    plan = plan_of(toy, config)
    assert (plan.checkpoint_every, plan.checkpoint_seconds) == (3, 4.5)
    assert (plan.log_every, plan.prefetch) == (5, 6)
