"""Places of a configuration mean the same from every directory; other texts are left alone."""

import os
from pathlib import Path

import pytest

from jaxdistill.config.load import check, load_config
from jaxdistill.config.paths import absolute, expand, moved, real
from jaxdistill.errors import ConfigError

VALUES = {
    "data": {"train": "a/../train.csv", "label": "train.csv", "tokenizer": "words"},
    "teacher": {"model": "teacher", "cache": "https://host/cache"},
    "student": {"layers": [0]},
}


def test_places_and_only_places_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = absolute(check(VALUES))
    assert found.data.train == str(tmp_path / "train.csv")
    assert found.data.validation is None
    assert found.data.tokenizer == str(tmp_path / "words")
    assert found.data.label == "train.csv"
    assert found.teacher.model == str(tmp_path / "teacher")
    assert found.teacher.cache == "https://host/cache"
    assert absolute(found) == found
    hub = {**VALUES, "data": {"source": "glue", "train": "train"}}
    assert absolute(check(hub)).data.train == "train"
    (tmp_path / "glue").mkdir()
    assert absolute(check(hub)).data.source == str(tmp_path / "glue")
    spec = {**VALUES, "teacher": {"model": {"family": "bert"}}, "data": {"train": "x"}}
    assert absolute(check(spec)).teacher.model == {"family": "bert"}


def test_a_folder_that_was_moved_finds_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = real(check(VALUES).model_dump(mode="json"))
    assert values["data"]["train"] == os.path.realpath(tmp_path / "train.csv")
    base = os.path.realpath(tmp_path)
    after = moved(values, f"{base}/runs/x", "/new/runs/x")
    assert after["data"]["train"] == "/new/train.csv"
    assert after["data"]["label"] == "train.csv"


def test_shells_names_are_those_of_places_and_braces_those_of_any_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SET", "there")
    values = {
        "description": "${SET} $SET ~",
        "data": {"train": "~/$SET/${SET}.csv", "label": "~", "labels": ["$SET", "~"]},
        "teacher": {"model": "~"},
    }
    found = expand(values)
    assert found["description"] == "there $SET ~"
    assert found["data"]["train"] == "/home/me/there/there.csv"
    assert (found["data"]["label"], found["data"]["labels"]) == ("~", ["$SET", "~"])
    assert found["teacher"]["model"] == "/home/me"
    with pytest.raises(ConfigError, match="environment variable UNSET, which is not set"):
        expand({"data": {"labels": ["${UNSET}"]}})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my config (1).yaml", "my-config-1"),
        ("lr=3e-3.yaml", "lr-3e-3"),
        ("café.yaml", "café"),
        ("Größe-中文.yaml", "Größe-中文"),
        (".hidden.yaml", "hidden"),
        ("v1.2.yaml", "v1.2"),
        ("--x--.yaml", "x"),
        ("(1).yaml", "1"),
        ("+.yaml", "run"),
        ("a\nb.yaml", "a-b"),
    ],
)
def test_any_file_name_names_a_work_directory(tmp_path, file, name):
    path = Path(tmp_path) / file
    path.write_text("data: {train: x}\nteacher: {model: t}\nstudent: {layers: [0]}\n")
    assert load_config(str(path)).name == name
    with pytest.raises(ConfigError, match="name: got 'a b', expected letters, digits"):
        load_config(str(path), ["name=a b"])
