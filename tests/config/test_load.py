"""Files, recipes and overrides become a config, and a saved one comes back."""

import pytest
import yaml
from support.configs import file_of, values_of

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
from jaxdistill.errors import ConfigError


def test_overrides(tmp_path):
    config = load_config(
        file_of(tmp_path, values_of(train={"epochs": 1, "schedule": "cosine"})),
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
    values = values_of()
    apply_override(values, f"train.learning_rate={text}")
    assert values["train"]["learning_rate"] == 1e-4


@pytest.mark.parametrize("override", ["train.epochs", "=3", ""])
def test_bad_overrides(tmp_path, override):
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(file_of(tmp_path, values_of()), [override])


def test_keys_without_end(tmp_path):
    with pytest.raises(ConfigError, match="inside of more others than can be read"):
        load_config(file_of(tmp_path, values_of()), ["a." * 5000 + "b=1"])


def test_override_that_is_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match="seeds: not valid YAML at line 1"):
        load_config(file_of(tmp_path, values_of()), ["seeds=[1"])


def test_environment_variables(tmp_path, monkeypatch):
    source = file_of(tmp_path, values_of(data={"train": "${MY_DATA}/train.tsv"}))
    monkeypatch.delenv("MY_DATA", raising=False)
    with pytest.raises(ConfigError, match="environment variable MY_DATA, which is not set"):
        load_config(source)
    monkeypatch.setenv("MY_DATA", "/some/where")
    assert load_config(source).data.train == "/some/where/train.tsv"


def test_empty_sections_are_their_defaults(tmp_path):
    text = yaml.safe_dump(values_of()) + "train:\ncheckpoint:\ntelemetry:\nobjective: {}\n"
    assert load_config(file_of(tmp_path, text)).train == schema.TrainConfig()
    assert check(values_of(finetune=None)).finetune is None


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
        load_config(file_of(tmp_path, content))
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
        values_of(
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
    assert fingerprint(check(values_of())) != fingerprint(config)


def test_differences():
    old, new = check(values_of()), check(values_of(train={"epochs": 7}, finetune=None))
    found = differences(old.model_dump(), new.model_dump())
    assert "train.epochs: 3.0 -> 7.0" in found
    assert any(item.startswith("finetune: {") for item in found)
    assert len(found) == 2
