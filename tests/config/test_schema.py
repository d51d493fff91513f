"""What the schema fills in, and which values it refuses."""

from typing import get_args

import pytest
from support.configs import fault_of, file_of, values_of

from jaxdistill.config import base
from jaxdistill.config.load import check, load_config
from jaxdistill.config.plugins import function_of
from jaxdistill.methods.registry import methods


def test_defaults_and_name(tmp_path):
    config = load_config(file_of(tmp_path, values_of()))
    assert config.name == "mine"
    assert config.seeds == (0, 1, 2)
    assert config.ranking_metric == "accuracy"
    assert config.terms["soft"].loss == "forward_kl"
    assert config.terms["soft"].temperature == 2.0
    assert config.terms["hard"].loss == "cross_entropy"


@pytest.mark.parametrize(
    ("task", "metric", "soft", "hard"),
    [
        ("multilabel", "exact_match", "bernoulli_kl", "multilabel"),
        ("regression", "spearman", "mse_logits", "regression"),
    ],
)
def test_defaults_follow_the_task(task, metric, soft, hard):
    config = check(values_of(task=task))
    assert config.ranking_metric == metric
    assert [term.loss for term in config.terms.values()] == [soft, hard]


def test_is_frozen():
    config = check(values_of())
    with pytest.raises(ValueError, match="frozen"):
        config.seeds = (1,)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"train": {"learning_rate": 0}}, "train.learning_rate: got 0"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: got nan"),
        ({"train": {"epochs": float("inf")}}, "train.epochs: got inf"),
        ({"train": {"dropout": 1.0}}, "train.dropout: got 1.0"),
        ({"finetune": {"weight_decay": -0.1}}, "finetune.weight_decay: got -0.1"),
        ({"data": {"source": "digits", "buckets": 9}}, "data.buckets: got 9"),
        ({"data": {"source": "digits", "validation_fraction": 1}}, "data.validation_fraction"),
        ({"student": {"layers": [0, -1]}}, "student.layers.1: got -1"),
        ({"parallel": {"data": 0}}, "parallel.data: got 0, expected -1"),
        (
            {"train": {"freeze": ["head", "layers/(0"]}},
            "train.freeze.1: got 'layers/(0', expected a regular expression: missing )",
        ),
        ({"seeds": []}, "seeds: got [], expected at least 1"),
        ({"name": "../up"}, "name: got '../up'"),
        ({"objective": {"soft": {"loss": "jsd", "beta": 1}}}, "objective.soft.beta: got 1"),
        ({"objective": {"soft": {"loss": "jsd", "temperature": 0}}}, "objective.soft.temperature"),
    ],
)
def test_ranges(sections, where):
    assert where in fault_of(values_of(**sections))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"data": {}}, "data.train: got nothing, expected a file or folder"),
        ({"data": None}, "data.train: got nothing"),
        ({"teacher": {}}, "teacher.model: got nothing"),
        ({"student": {}}, "student: got neither student.model nor student.layers"),
        ({"student": {"model": "x", "layers": 2}}, "student.layers: got both"),
        (
            {"train": {"batch_size": 32, "accumulate": 3}},
            "train.accumulate: got 3, expected a divisor of batch_size 32; one of [1, 2, 4",
        ),
        ({"finetune": {"accumulate": 5}}, "finetune.accumulate: got 5"),
        ({"seeds": [1, 1]}, "seeds: got [1, 1], expected each seed once"),
        ({"metric": "pearson"}, "metric: got 'pearson' for task 'classification'"),
        (
            {"objective": {"hard": {"loss": "regression"}}},
            "objective.hard.loss: got 'regression' for task 'classification', "
            "expected 'cross_entropy'",
        ),
        (
            {"objective": {"hint": {"loss": "hidden_mse"}}},
            "objective.hint.layers: got none for loss 'hidden_mse'",
        ),
        (
            {"objective": {"soft": {"loss": "jsd", "layers": {0: 1}}}},
            "objective.soft.layers: unknown key for the loss 'jsd', which has weight, temp",
        ),
        (
            {"teacher": {"model": "folder", "fresh_head": True}, "finetune": None},
            "teacher.fresh_head: got true, but finetune is null, so that nothing would train it",
        ),
        (
            {"student": {"model": {"family": "mlp"}, "fresh_head": True}},
            "student.fresh_head: got true, but student.model is a mapping, whose head is always",
        ),
        (
            {"task": "language_model", "teacher": {"model": "folder", "fresh_head": True}},
            "teacher.fresh_head: got true, but a language model's head belongs to its vocabulary",
        ),
        ({"accept": ["length"]}, "accept.0: got 'length'"),
        (
            {"data": {"source": "digits", "max_length": 128, "tokens_per_batch": 64}},
            "data.tokens_per_batch: got 64, expected at least max_length 128",
        ),
        (
            {"data": {"train": "a.tsv", "columns": ["text", "text"]}},
            "data.columns: got ['text', 'text'], expected each name once",
        ),
        (
            {"data": {"train": "a.tsv", "encoding": "gkb"}},
            "data.encoding: got 'gkb', expected one that Python knows",
        ),
        (
            {"data": {"train": "a.tsv", "prompt": "question"}},
            "data.prompt: got only data.prompt, expected data.prompt and data.completion together",
        ),
        (
            {"data": {"train": "a.tsv", "streaming": True}},
            "data.streaming: has no effect with source=files",
        ),
        (
            {"data": {"train": "a.tsv", "subset": "sst2"}},
            "data.subset: has no effect with source=files",
        ),
        (
            {"data": {"source": "imdb", "columns": ["text", "label"]}},
            "data.columns: has no effect with source=imdb",
        ),
        (
            {"data": {"source": "imdb", "train": ["a", "b"]}},
            "data.train: got a list with source=imdb, expected the name of one split",
        ),
    ],
)
def test_values_that_contradict_each_other(sections, expected):
    assert expected in fault_of(values_of(**sections))


def test_optimizers_are_those_that_exist():
    from jaxdistill.engine.optimizer import OPTIMIZERS

    assert set(get_args(base.Optimizer)) == set(OPTIMIZERS)


def test_losses_are_those_that_exist():
    from jaxdistill import losses

    for name, method in methods().items():
        assert function_of(method.formula) is getattr(losses, name)
        assert all(callable(function_of(target)) for target in method.cached.values())
