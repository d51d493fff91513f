"""The schema refuses what it should, in words that help; overrides and recipes resolve."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from jaxdistill.config import base, schema
from jaxdistill.config.load import (
    apply_override,
    check,
    describe_recipes,
    differences,
    dump,
    fingerprint,
    load_config,
    recipes,
)
from jaxdistill.config.plugins import function_of
from jaxdistill.errors import ConfigError
from jaxdistill.methods.registry import methods


def _values(**sections) -> dict:
    usual = {
        "data": {"source": "digits"},
        "teacher": {"model": {"family": "cnn"}},
        "student": {"model": {"family": "mlp"}},
    }
    return {**usual, **sections}


def _file(folder: Path, values: dict | str) -> str:
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def _fault(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        check(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_and_name(tmp_path):
    config = load_config(_file(tmp_path, _values()))
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
    config = check(_values(task=task))
    assert config.ranking_metric == metric
    assert [term.loss for term in config.terms.values()] == [soft, hard]


def test_is_frozen():
    config = check(_values())
    with pytest.raises(ValueError, match="frozen"):
        config.seeds = (1,)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"tain": {}}, ["tain: unknown key", "Did you mean 'train'?"]),
        ({"train": {"lerning_rate": 1}}, ["train.lerning_rate", "Did you mean 'learning_rate'?"]),
        ({"train": {"zzzz": 1}}, ["train.zzzz: unknown key", "Known: ['epochs'"]),
        ({"learning_rate": 1}, ["learning_rate: unknown key. Did you mean finetune.learning_rate"]),
        ({"train": {"lr": 1}}, ["train.lr: unknown key. Did you mean 'learning_rate'?"]),
        ({"max_seq_length": 64}, ["max_seq_length: unknown key. Did you mean data.max_length?"]),
        ({"seed": 1}, ["seed: unknown key. Did you mean 'seeds'?"]),
        ({"finetune": {"epoch": 1}}, ["finetune.epoch", "Did you mean 'epochs'?"]),
        (
            {"objective": {"soft": {"loss": "forward_kl", "temprature": 2}}},
            ["objective.soft.temprature", "Did you mean 'temperature'?"],
        ),
        (
            {"objective": {"soft": {"loss": "forward_kl", "weight": {"strat": 2}}}},
            ["objective.soft.weight.strat", "Did you mean 'start'?"],
        ),
    ],
)
def test_unknown_keys_name_the_nearest(sections, expected):
    message = _fault(_values(**sections))
    assert all(part in message for part in expected)


def test_every_unknown_key_is_listed():
    message = _fault(_values(tain={}, train={"epoch": 1}))
    assert "tain" in message
    assert "train.epoch" in message


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"train": {"learning_rate": "abc"}}, "train.learning_rate: got 'abc', expected a number"),
        ({"train": {"batch_size": 2.5}}, "train.batch_size: got 2.5, expected a whole number"),
        ({"train": {"batch_size": True}}, "train.batch_size: got True"),
        ({"train": {"remat": "maybe"}}, "train.remat: got 'maybe', expected true or false"),
        ({"train": 5}, "train: got 5, expected a section with keys"),
        ({"seeds": 3}, "seeds: got 3, expected a list such as [a, b]"),
        ({"teacher": {"model": 3}}, "teacher.model: got 3, expected text or a section with keys"),
        (
            {"student": {"layers": "abc"}},
            "student.layers: got 'abc', expected a list such as [a, b] or a whole number",
        ),
        ({"train": {"optimizer": "adamm"}}, "Did you mean 'adam'?"),
        ({"data": {"source": "digits", "layout": "packed"}}, "Did you mean 'pack'?"),
        (
            {"objective": {"soft": {"loss": "forward_kl", "weight": {"start": 1}}}},
            "objective.soft.weight.end: got nothing, expected a value",
        ),
        ({"objective": {"soft": {}}}, "objective.soft.loss: got nothing, expected a value"),
    ],
)
def test_wrong_types_are_named(sections, expected):
    message = _fault(_values(**sections))
    assert expected in message
    assert "Input should" not in message


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
        ({"seeds": []}, "seeds: got [], expected at least 1"),
        ({"name": "../up"}, "name: got '../up'"),
        ({"objective": {"soft": {"loss": "jsd", "beta": 1}}}, "objective.soft.beta: got 1"),
        ({"objective": {"soft": {"loss": "jsd", "temperature": 0}}}, "objective.soft.temperature"),
    ],
)
def test_ranges(sections, where):
    assert where in _fault(_values(**sections))


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
    assert expected in _fault(_values(**sections))


def test_of_a_union_only_the_member_that_was_meant_complains():
    message = _fault(_values(student={"layers": [0, -1]}))
    assert message == "student.layers.1: got -1, expected a number greater than or equal to 0"
    message = _fault(_values(objective={"soft": {"loss": "jsd", "weight": {"start": 1}}}))
    assert message == "objective.soft.weight.end: got nothing, expected a value"


def test_several_faults_in_one_error():
    message = _fault(_values(train={"epochs": 0, "keep": "first"}, seeds="x"))
    assert all(name in message for name in ("train.epochs", "train.keep", "seeds"))


def test_overrides(tmp_path):
    config = load_config(
        _file(tmp_path, _values(train={"epochs": 1, "schedule": "cosine"})),
        [
            "student.model=null",
            "student.layers=[0,2,4]",
            "train.learning_rate=1e-4",
            "train.epochs=2",
            "objective.soft.loss=forward_kl",
            "objective.soft.weight.start=1",
            "objective.soft.weight.end=0.5",
            "objective.hint={loss: hidden_mse, layers: {0: 1}}",
            "data.label=my label",
            "finetune=null",
            "seeds=[7]",
        ],
    )
    assert config.student.layers == (0, 2, 4)
    assert config.student.model is None
    assert config.train.learning_rate == 1e-4
    assert config.train.epochs == 2
    assert config.train.schedule == "cosine"
    assert config.objective["soft"].weight == base.ScheduleConfig(start=1, end=0.5)
    assert config.objective["hint"].layers == {0: 1}
    assert config.data.label == "my label"
    assert config.finetune is None
    assert config.seeds == (7,)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "1.0e-04", "0.0001"])
def test_numbers_as_people_write_them(text):
    values = _values()
    apply_override(values, f"train.learning_rate={text}")
    assert values["train"]["learning_rate"] == 1e-4


@pytest.mark.parametrize("override", ["train.epochs", "=3", ""])
def test_bad_overrides(tmp_path, override):
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(_file(tmp_path, _values()), [override])


def test_override_that_is_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match="seeds: not valid YAML at line 1"):
        load_config(_file(tmp_path, _values()), ["seeds=[1"])


def test_environment_variables(tmp_path, monkeypatch):
    source = _file(tmp_path, _values(data={"train": "${MY_DATA}/train.tsv"}))
    monkeypatch.delenv("MY_DATA", raising=False)
    with pytest.raises(ConfigError, match="environment variable MY_DATA, which is not set"):
        load_config(source)
    monkeypatch.setenv("MY_DATA", "/some/where")
    assert load_config(source).data.train == "/some/where/train.tsv"


def test_empty_sections_are_their_defaults(tmp_path):
    text = yaml.safe_dump(_values()) + "train:\ncheckpoint:\ntelemetry:\nobjective: {}\n"
    assert load_config(_file(tmp_path, text)).train == schema.TrainConfig()
    assert check(_values(finetune=None)).finetune is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "got NoneType, expected a mapping"),
        ("- 1\n", "got list, expected a mapping"),
        ("data: [1\n", "not valid YAML at line"),
        ("seeds: [1]\nseeds: [2]\n", "the key 'seeds' is given twice"),
        ("data: {source: digits, source: files}\n", "the key 'source' is given twice"),
    ],
)
def test_broken_files(tmp_path, content, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(_file(tmp_path, content))
    assert "mine.yaml" in str(caught.value)


def test_binary_file(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ConfigError, match="binary file"):
        load_config(str(tmp_path / "x.yaml"))


def test_missing_file_names_the_recipes():
    with pytest.raises(ConfigError, match="expected a YAML file or one of the recipes"):
        load_config("no/such/file.yaml")


def test_recipes_load_by_name():
    known = recipes()
    if "digits" not in known:
        pytest.skip("no recipe 'digits' in configs/ yet")
    assert load_config("digits").name == "digits"
    assert set(describe_recipes()) == set(known)
    assert all(describe_recipes().values()), "every recipe says what it does"
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        load_config("digit")


def test_saved_config_loads_again(tmp_path):
    config = check(
        _values(
            objective={
                "soft": {"loss": "forward_kl", "temperature": {"start": 4, "end": 1}},
                "hint": {"loss": "hidden_mse", "layers": {0: 1}},
            },
            finetune=None,
        )
    )
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    again = load_config(str(tmp_path / "config.yaml"))
    assert again == config
    assert fingerprint(again) == fingerprint(config)
    assert fingerprint(check(_values())) != fingerprint(config)


def test_differences():
    old, new = check(_values()), check(_values(train={"epochs": 7}, finetune=None))
    found = differences(old.model_dump(), new.model_dump())
    assert "train.epochs: 3.0 -> 7.0" in found
    assert any(item.startswith("finetune: {") for item in found)
    assert len(found) == 2


def test_optimizers_are_those_that_exist():
    from jaxdistill.engine.optimizer import OPTIMIZERS

    assert set(get_args(base.Optimizer)) == set(OPTIMIZERS)


def test_losses_are_those_that_exist():
    from jaxdistill import losses

    for name, method in methods().items():
        assert function_of(method.formula) is getattr(losses, name)
        assert all(callable(function_of(target)) for target in method.cached.values())
