"""Sources by name: registered once, checked when a config is read, read as tables."""

import subprocess
import sys

import numpy as np
import pytest

from jaxdistill.config import sources as module
from jaxdistill.config.load import check
from jaxdistill.config.schema import DataConfig
from jaxdistill.config.sources import Source, register_source, sources
from jaxdistill.data.reading.sources import read_source, read_sources
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.setup.facts import facts_without_data

IMAGE = {"height": 4, "width": 6, "channels": 3}
COLUMNS = {"text": ["a", "b", "c"], "label": [0, 1, 0]}


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(module, "_REGISTERED", {})


def config_of(**data):
    model = {"model": {"family": "mlp"}}
    return check({"data": data, "teacher": model, "student": model})


def test_a_registered_source_is_read():
    parts = {"train": COLUMNS, "test": {name: rows[:2] for name, rows in COLUMNS.items()}}
    register_source(Source("mine", lambda: parts, labels=("no", "yes")))
    found = read_sources(config_of(source="mine").data)
    assert found.train.columns == COLUMNS
    assert found.train.names == {"label": ("no", "yes")}
    assert found.train.at(1) == "mine:train row 2"
    assert found.validation is None
    assert found.test is not None
    assert len(found.test) == 2


def test_its_sizes_are_known_without_reading_it():
    def never():
        raise AssertionError

    register_source(Source("mine", never, labels=("a", "b", "c"), modality="image", sizes=IMAGE))
    points = {"modality": "features", "sizes": {"features": 5}}
    register_source(Source("points", never, labels=("a", "b"), **points))
    found = facts_without_data(config_of(source="mine"))
    assert (found.outputs, found.modality, found.sizes) == (3, "image", IMAGE)
    found = facts_without_data(config_of(source="points"))
    assert (found.outputs, found.modality, found.sizes) == (2, "features", {"features": 5})
    found = facts_without_data(config_of(source="digits"))
    digits = {"height": 8, "width": 8, "channels": 1}
    assert (found.outputs, found.modality, found.sizes) == (10, "image", digits)
    found = facts_without_data(config_of(source="digits", image_size=16))
    assert found.sizes == {"height": 16, "width": 16, "channels": 1}


def test_what_the_package_declares_of_its_own_is_so():
    found = read_source(sources()["digits"])["train"]
    images = found.columns["image"]
    assert (*images.shape[1:], 1) == tuple(sources()["digits"].sizes.values())
    assert found.names["label"] == tuple(map(str, range(10)))
    assert set(np.asarray(found.columns["label"]).tolist()) == set(range(10))


@pytest.mark.parametrize("name", ["digit", "stdlb", "fils", "mine_data"])
def test_a_name_that_is_nearly_known_is_refused(name):
    register_source(Source("my_data", lambda: {"train": COLUMNS}))
    meant = {"digit": "digits", "stdlb": "stdlib", "fils": "files", "mine_data": "my_data"}[name]
    message = rf"data.*source: got '{name}', expected one of .*OWNER/NAME.* mean '{meant}'"
    with pytest.raises(ConfigError, match=message):
        config_of(source=name)


@pytest.mark.parametrize("name", ["stanfordnlp/digit", "imdb", "glue", "ag_news"])
def test_other_names_may_be_hugging_face_datasets(name):
    assert config_of(source=name).data.source == name


def test_a_folder_may_have_a_name_near_to_a_known_one(tmp_path, monkeypatch):
    (tmp_path / "digit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert DataConfig(source="digit").source == "digit"


@pytest.mark.parametrize("option", ["train", "subset"])
def test_options_of_files_and_datasets_have_no_effect(option):
    register_source(Source("mine", lambda: {"train": COLUMNS}))
    with pytest.raises(ConfigError, match=rf"data.{option}.* and data.source is 'mine'"):
        config_of(source="mine", **{option: "x"})


@pytest.mark.parametrize("name", ["digits", "mine"])
def test_a_name_is_given_once(name):
    source = register_source(Source("mine", dict))
    assert register_source(source) is source
    with pytest.raises(ConfigError, match=f"got the name {name!r}, which another source has"):
        register_source(Source(name, max))


@pytest.mark.parametrize("name", ["", "files", "a/b", "a b"])
def test_a_name_that_means_something_else_is_refused(name):
    with pytest.raises(ConfigError, match=f"source: got the name {name!r}, expected one without"):
        Source(name, dict)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (COLUMNS, r"source=mine: got \['label', 'text'\], expected columns for 'train'"),
        ([1], r"source=mine: got list, expected columns for 'train'"),
        ({"test": COLUMNS}, r"source=mine: got \['test'\], expected columns for 'train'"),
        ({"train": COLUMNS, "dev": COLUMNS}, r"got \['dev', 'train'\], expected columns"),
        ({"train": [1]}, "mine:train: got list, expected values by column"),
        ({"train": {}}, "mine:train: got dict, expected values by column"),
        ({"train": {"a": [1], "b": [1, 2]}}, r"got columns of \{'a': 1, 'b': 2\} rows"),
        ({"train": {"a": []}}, r"got columns of \{'a': 0\} rows, expected as many in each"),
    ],
)
def test_what_cannot_be_read_is_named(found, message):
    with pytest.raises(DataError, match=message):
        read_source(Source("mine", lambda: found))


def test_a_config_is_checked_without_jax_and_without_the_data():
    script = (
        "import sys, jaxdistill as jd\n"
        "from jaxdistill.config.load import check\n"
        "jd.register_source(jd.Source('mine', 'no_such_module:read'))\n"
        "jd.register_family('own', 'no_such_module:FAMILY')\n"
        "model = {'model': {'family': 'own'}}\n"
        "check({'data': {'source': 'mine'}, 'teacher': model, 'student': model})\n"
        "assert 'jax' not in sys.modules, 'jax was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
