"""Kinds of input: what they declare, that batches are so, and how names are given and read."""

import re
from pathlib import Path

import numpy as np
import pytest

import jaxdistill
from jaxdistill.config.base import Section
from jaxdistill.config.data import altering
from jaxdistill.config.load import apply_override, check, dump, load_config
from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import eval_batches, train_batches
from jaxdistill.data.batching.draws import Part
from jaxdistill.data.dataset import prepare
from jaxdistill.data.inputs.inputs import Arrays
from jaxdistill.data.inputs.reading import Found
from jaxdistill.data.inputs.shapes import batch_shapes, example_batch, sizes_of
from jaxdistill.data.reading.columns import find_roles
from jaxdistill.data.reading.table import Table
from jaxdistill.data.split import make_split
from jaxdistill.distill.workspace import Workspace
from jaxdistill.doctor.checks_models import refuse_unfit
from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.modalities import registry
from jaxdistill.modalities.modality import Field, Modality
from jaxdistill.setup.facts import facts_without_data
from jaxdistill.teachers.targets import obstacle

PACKAGE = Path(jaxdistill.__file__).parent
MODELS = {"teacher": {"model": {"family": "mlp"}}, "student": {"model": {"family": "mlp"}}}


class NoisyOptions(Section):
    """Options of the kind of input of these tests."""

    column: str
    noise: int = 0


class Noisy(Arrays):
    """Whole numbers, to each of which a random one is added."""

    def augment(self, batch, config, chance):
        (moves,) = chance.integers(1, config.inputs.noise + 1)
        return {"features": batch["features"] + moves[:, None].astype(np.float32)}


def read(tables, source):
    """Numbers of one column."""
    found = {part: np.array(table.columns[source.columns[0]]) for part, table in tables.items()}
    rows = {part: values.astype(np.float32)[:, None] for part, values in found.items()}
    return Found({part: Noisy({"features": values}) for part, values in rows.items()})


def noisy(**fields):
    usual = {
        "name": "noisy",
        "plural": "noisy numbers",
        "fields": {"features": Field("float32", ("features",))},
        "read": read,
        "options": NoisyOptions,
        "named": lambda table, data: (data.inputs.column,),
        "altering_keys": ("noise",),
        "read_as": ("features",),
    }
    return Modality(**{**usual, **fields})


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return registry.register_modality(noisy())


def configured(**data):
    return check({"data": {"train": "x.csv", **data}, **MODELS})


def test_kinds_are_asked_of_their_records_alone():
    asked = re.compile(r"modality (==|!=|in\b)|\b(inputs|split)\.\w+ is (not )?None")
    assert asked.search('if dataset.modality == "text":')
    assert asked.search("if split.images is not None:")
    found = [
        f"{path.relative_to(PACKAGE)}:{number} {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "modalities"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asked.search(line)
    ]
    assert not found, "\n".join(found)


def test_what_kinds_name_is_there():
    names = ("read", "named", "usual", "sizes_of_config", "sizes_of_model", "model_sizes")
    for modality in registry.modalities().values():
        named = [getattr(modality, name) for name in names]
        for target in (*filter(None, named), *modality.checks):
            assert callable(function_of(target))
        assert set(modality.keys) <= set(DataConfig.model_fields)
        assert set(modality.read_as) <= set(registry.modalities())


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"fields": {}}, "fields: got none"),
        ({"fields": {"labels": Field("int32")}}, "fields: got 'labels', which every batch has"),
        ({"altering_keys": ("nose",)}, r"got the key 'nose', expected one of.*'noise'"),
        ({"refused_keys": ("shift",)}, "got the key 'shift'"),
    ],
)
def test_parts_that_do_not_go_together(fields, fault):
    with pytest.raises(ConfigError, match=f"modality 'noisy': {fault}"):
        noisy(**fields)


@pytest.mark.parametrize("name", ["text", "noisy"])
def test_a_name_is_given_once(registered, name):
    registry.register_modality(registered)  # once more is no other
    with pytest.raises(ConfigError, match=f"got the name {name!r}, which another kind of input"):
        registry.register_modality(noisy(name=name, plural="others"))


def test_an_unknown_kind_is_named():
    with pytest.raises(ModelError, match=r"got 'txt', expected one of.*Did you mean 'text'\?"):
        registry.modality_named("txt")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"modality": "nosy"}, r"data.modality: got 'nosy', expected one of.*Did you mean 'noisy'"),
        ({"inputs": {"column": "a"}}, r"data.inputs: got .* without data.modality"),
        (
            {"modality": "text", "inputs": {"a": 1}},
            "data.inputs: has no effect for the modality 'text'",
        ),
        ({"modality": "noisy"}, "data.inputs.column: got nothing, expected a value"),
        (
            {"modality": "noisy", "inputs": {"column": "a", "nose": 1}},
            r"data.inputs.nose: unknown key. Did you mean 'noise'\?",
        ),
        (
            {"modality": "noisy", "inputs": {"column": "a", "noise": "x"}},
            "data.inputs.noise: got 'x', expected a whole number",
        ),
        (
            {"modality": "noisy", "inputs": {"column": "a"}, "shift": 1},
            "data.shift: got a value that has no effect: it is of images; data.modality is 'noisy'",
        ),
        ({"modality": "text", "image_size": 8}, "data.image_size: .* of images"),
    ],
)
def test_options_are_checked(registered, data, fault):
    with pytest.raises(ConfigError, match=fault):
        configured(**data)


def test_a_language_model_reads_documents_only():
    values = {"data": {"train": "x.txt", "modality": "text"}, "task": "language_model"}
    gpt = {"model": {"family": "gpt2"}}
    with pytest.raises(ConfigError, match=r"data\.modality: .* not of language models"):
        check({**values, "teacher": gpt, "student": gpt})


def test_options_are_written_down_and_read_again(registered, tmp_path):
    config = configured(modality="noisy", inputs={"column": "a", "noise": 2})
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    again = load_config(str(path))
    assert again.data == config.data
    assert again.data.inputs.noise == 2
    values = {"data": {"modality": "noisy", "inputs": {}}}
    apply_override(values, "data.inputs.column=007")
    assert values["data"]["inputs"] == {"column": "007"}  # text, as its field holds


def test_what_alters_examples_keeps_the_teacher_live(registered):
    plain = configured(modality="noisy", inputs={"column": "a"})
    assert obstacle(plain) is None
    config = configured(modality="noisy", inputs={"column": "a", "noise": 2})
    assert altering(config.data) == {"data.inputs.noise": 2}
    assert obstacle(config) == "data.inputs.noise alters the examples"
    assert obstacle(configured(shift=1)) == "data.shift alters the examples"
    assert not altering(DataConfig(train="x", modality="text", shift=1))  # of another kind


def test_models_have_to_read_the_kind_that_is_named(registered):
    refuse_unfit(configured(modality="noisy", inputs={"column": "a"}))
    with pytest.raises(ConfigError, match=r"reads features; expected such as read text"):
        refuse_unfit(configured(modality="text"))
    pair = {**MODELS, "teacher": {"model": {"family": "cnn"}}}
    refuse_unfit(check({"data": {"source": "digits"}, **pair}))  # both read images
    data = {"train": "x", "modality": "noisy", "inputs": {"column": "a"}}
    config = check({"data": data, **pair})
    with pytest.raises(ConfigError, match=r"which reads image .* expected such as read noisy"):
        refuse_unfit(config)


@pytest.fixture
def numbers(registered, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,label\n" + "".join(f"{100 * i},{i % 2}\n" for i in range(40)))
    return {"train": str(path), "modality": "noisy"}


def test_columns_that_options_name_are_looked_for(numbers):
    config = DataConfig(**numbers, inputs={"column": "aa"})
    with pytest.raises(DataError, match=r"data.inputs: .* has no column 'aa'.*Did you mean 'a'"):
        prepare(config, task="classification", tokenizer_folder=None)
    config = DataConfig(train=numbers["train"], modality="features")
    with pytest.raises(DataError, match=r"data.modality: got 'features', but .* no column"):
        prepare(config, task="classification", tokenizer_folder=None)


def test_a_kind_with_options_is_read_where_it_is_named_alone(numbers):
    table = Table({"a": [1.0], "text": ["a film"], "label": ["x"]}, "x.csv")
    roles = find_roles(table, DataConfig(train="x.csv"), task="classification")
    assert (roles.modality, roles.inputs) == ("text", ("text",))
    config = DataConfig(**numbers, inputs={"column": "a"})
    roles = find_roles(table, config, task="classification")
    assert (roles.modality, roles.inputs) == ("noisy", ("a",))


def test_settings_of_a_work_directory_name_a_kind_that_the_config_names(registered, tmp_path):
    def settings(**data):
        return Workspace(configured(**data), tmp_path, False).settings()["data"]

    assert not {"modality", "inputs"} & set(settings())  # work directories of before go on
    named = settings(modality="noisy", inputs={"column": "a"})
    assert (named["modality"], named["inputs"]) == ("noisy", {"column": "a", "noise": 0})


def test_random_numbers_of_a_row_depend_on_its_step_alone(numbers):
    config = DataConfig(**numbers, inputs={"column": "a", "noise": 9})
    data = prepare(config, task="classification", tokenizer_folder=None)
    assert data.modality == "noisy"
    source = train_batches(data.train, batch_size=8, seed=1, config=config, shards=4)
    moves = [source[step]["features"][:, 0] % 100 for step in range(8)]
    assert len({tuple(move) for move in moves}) == 8
    assert {0, 9} <= {int(move) for batch in moves for move in batch} <= set(range(10))
    for step in (0, 3):
        own = source.only(Part((1, 3), 4))[step]["features"]
        np.testing.assert_array_equal(own, source[step]["features"][[2, 3, 6, 7]])
        np.testing.assert_array_equal(source[step]["features"], source[step]["features"])
    plain = DataConfig(**numbers, inputs={"column": "a"})
    other = train_batches(data.train, batch_size=8, seed=1, config=plain, shards=4)
    assert source.fingerprint != other.fingerprint
    held = eval_batches(data.validation, batch_size=8, config=config)
    assert all((batch["features"] % 100 == 0).all() for batch in held)


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"other": np.zeros((2, 3), np.float32)}, r"\['other'\], expected the fields \['features'"),
        ({"features": np.zeros((2, 3))}, "features of float64 and shape .*, expected float32"),
        (
            {"features": np.zeros(2, np.float32)},
            r"features of float32 and shape \(1,\), expected .* axes",
        ),
    ],
)
def test_batches_are_what_was_declared(arrays, fault):
    with pytest.raises(ConfigError, match=f"modality 'noisy': a batch holds {fault}"):
        sizes_of(noisy(), Arrays(arrays))
    assert sizes_of(noisy(), Arrays({"features": np.zeros((2, 3), np.float32)})) == {"features": 3}


def test_fields_that_share_an_axis_have_to_agree():
    both = {name: Field("float32", ("width",)) for name in ("a", "b")}
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 4), np.float32)}
    with pytest.raises(ConfigError, match="holds b with width=4, expected 3 as elsewhere"):
        sizes_of(noisy(fields=both), Arrays(arrays))


def test_shapes_without_data():
    text = registry.modality_named("text")
    shapes = batch_shapes(text, 3, {"length": 7})
    assert {name: leaf.shape for name, leaf in shapes.items()} == dict.fromkeys(shapes, (3, 7))
    example = example_batch(text, 1, {"length": 2})
    assert example["attention_mask"].tolist() == [[1, 1]]
    with pytest.raises(DataError, match="got no 'length' of texts"):
        batch_shapes(text, 3, {})


def test_arrays_are_taken_and_known_by_all_their_fields():
    first = np.array([[1], [2], [1]], np.float32)
    inputs = Arrays({"a": first, "b": np.array([[5], [5], [6]], np.int32)})
    assert len(set(inputs.example_bytes())) == 3
    assert inputs.take(np.array([2, 0])).arrays["b"][:, 0].tolist() == [6, 5]
    labels = np.zeros(3, np.int32)
    other = Arrays({"a": first, "b": np.array([[5], [5], [7]], np.int32)})
    assert make_split(labels, inputs).fingerprint != make_split(labels, other).fingerprint


def test_what_a_config_says_of_its_inputs():
    facts = facts_without_data(check({"data": {"source": "digits"}, **MODELS}))
    assert (facts.modality, facts.sizes) == ("image", {"height": 8, "width": 8, "channels": 1})
    assert facts_without_data(configured()).modality is None
    gpt = {"model": {"family": "gpt2"}}
    speaks = {"task": "language_model", "data": {"train": "x.txt", "max_length": 32}}
    facts = facts_without_data(check({**speaks, "teacher": gpt, "student": gpt}))
    assert (facts.modality, facts.sizes) == ("documents", {"length": 32})
    paired = facts_without_data(configured(text="a", text_pair="b"))
    assert (paired.modality, paired.sizes) == ("text", {"token_types": 2})
