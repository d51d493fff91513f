"""What is written is what is read: words that YAML takes for something else, and their way back."""

import random
from typing import Any

import pytest
import yaml

from jaxdistill.config import faults
from jaxdistill.config.load import check, dump, load_config
from jaxdistill.config.values import read_override, read_yaml, write_yaml
from jaxdistill.errors import ConfigError

BASE = {
    "data": {"train": "train.csv"},
    "teacher": {"model": "teacher"},
    "student": {"layers": [0]},
}
NASTY = [
    *(
        "no",
        "yes",
        "on",
        "off",
        "true",
        "null",
        "~",
        "None",
        "1e-4",
        "0123",
        "0x1F",
        "0b1",
        "1_000",
    ),
    *("12:30", "190:20:30", "2020-01-01", "2020-01-01 10:00:00", ".inf", ".nan", "3.", "+1", "-"),
    *(
        "#1 String",
        "a #b",
        "a# b",
        "key: value",
        "[no, yes]",
        "{a: 1}",
        "*alias",
        "&anchor",
        "!tag",
    ),
    *("", " ", " leading", "trailing ", "two\nlines", "tab\there", "it's", 'say "hi"', "%", "@x"),
    *(
        "`x`",
        "<<",
        "=",
        "?",
        "? x",
        "- x",
        "---",
        "...",
        "|",
        ">",
        "café",
        "中文",
        "\x85",
        "\u2028",
    ),
    *("\ufeff", "\x07", "\U0001f600", "\r", "\\n", "'", '"', "''", "a: b: c", "x:", ":x", ",", "]"),
]


def written(folder, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def overridden(folder, *overrides: str):
    return load_config(written(folder, yaml.safe_dump(BASE)), overrides)


@pytest.mark.parametrize(
    ("override", "section", "field", "expected"),
    [
        ("data.text=#1 String", "data", "text", "#1 String"),
        ("data.text='#1 String'", "data", "text", "#1 String"),
        ('data.text="a: b"', "data", "text", "a: b"),
        ("data.text=it's", "data", "text", "it's"),
        ("data.text='tis", "data", "text", "'tis"),
        ("data.train=my data/train set #1.jsonl", "data", "train", "my data/train set #1.jsonl"),
        ("data.train=2024-05-01", "data", "train", "2024-05-01"),
        ("data.train=[draft] train.csv", "data", "train", "[draft] train.csv"),
        ("data.label=no", "data", "label", "no"),
        ("data.label=12:30", "data", "label", "12:30"),
        ("data.label=0123", "data", "label", "0123"),
        ("data.label=1e-4", "data", "label", "1e-4"),
        ("data.label=*", "data", "label", "*"),
        ("data.label=null", "data", "label", None),
        ("data.label=", "data", "label", None),
        ("data.labels=[no,yes]", "data", "labels", ("no", "yes")),
        ("data.labels=[2020-01-01, 12:30]", "data", "labels", ("2020-01-01", "12:30")),
        ("data.labels=[1, null]", "data", "labels", ("1", "null")),
        ("data.shift=0123", "data", "shift", 123),
        ("data.cache=off", "data", "cache", False),
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("train.steps=1e4", "train", "steps", 10_000),
        ("train.clip_norm=null", "train", "clip_norm", None),
        ("train.unroll=Yes", "train", "unroll", True),
        ("train.freeze=[layers/0/, no]", "train", "freeze", ("layers/0/", "no")),
        ("student.layers=3", "student", "layers", 3),
    ],
)  # fmt: skip
def test_an_override_is_text_unless_its_field_holds_something_else(
    tmp_path, override, section, field, expected
):
    assert getattr(getattr(overridden(tmp_path, override), section), field) == expected


def test_overrides_of_names_and_of_what_has_no_fields(tmp_path):
    for name in ("007", "2024-05-01", "1e-4", "no"):
        assert overridden(tmp_path, f"name={name}").name == name
    model = overridden(
        tmp_path,
        "teacher.model={family: gpt2, n_layer: 2, tie: no, rope: 1e-4}",
        "teacher.model.n_head=4",
        "teacher.model.note=2020-01-01",
    ).teacher.model
    expected = {"family": "gpt2", "n_layer": 2, "tie": False, "rope": 1e-4, "n_head": 4}
    assert model == {**expected, "note": "2020-01-01"}
    objective = overridden(tmp_path, "objective={no: {loss: hidden_mse, layers: {0: 1}}}").objective
    assert objective["no"].layers == {0: 1}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("finetune=None", "finetune: got None, expected null where nothing is meant"),
        ("data.labels=no,yes", "data.labels: got 'no,yes', expected a list such as [a, b]"),
        ("student.layers=0,1", "student.layers: got '0,1', expected a list such as [a, b] or a wh"),
        ("train.learning_rate=3,e-4", "train.learning_rate: got '3,e-4', expected a number"),
        ("train.epochs=12:30", "train.epochs: got '12:30', expected a number"),
        ("train.epochs=True", "train.epochs: got 'True', expected a number"),
        ("seeds=[2020-01-01]", "seeds.0: got '2020-01-01', expected a whole number"),
        ("data.labels=[no, yes", "data.labels: not valid YAML at line 1"),
    ],
)
def test_an_override_that_is_not_what_its_field_holds_is_named(tmp_path, override, expected):
    with pytest.raises(ConfigError) as caught:
        overridden(tmp_path, override)
    assert expected in str(caught.value)


def test_words_of_a_file_are_read_as_what_their_field_holds(tmp_path):
    config = load_config(
        written(
            tmp_path,
            "name: 007\nseeds: [0]\n"
            "data: {train: 2024-05-01, labels: [no, yes, 12:30, null], text: on, label: 0x1F}\n"
            "teacher: {model: teacher}\nstudent: {layers: 1}\n"
            "finetune: &t {learning_rate: 1e-4, epochs: 2}\n"
            "train: {<<: *t, epochs: 3}\n"
            "objective:\n  on: {loss: cross_entropy}\n",
        )
    )
    assert config.name == "007"
    assert config.data.labels == ("no", "yes", "12:30", "null")
    assert (config.data.train, config.data.text, config.data.label) == ("2024-05-01", "on", "0x1F")
    assert (config.train.learning_rate, config.train.epochs) == (1e-4, 3)
    assert list(config.objective) == ["on"]


def test_a_file_in_json_keeps_its_texts(tmp_path):
    text = (
        '{"data": {"train": "t.csv", "labels": ["no", "1"]},\n\t"teacher": {"model": "t"},'
        ' "student": {"layers": [0]}, "train": {"learning_rate": 1e-4, "remat": true}}'
    )
    path = tmp_path / "mine.json"
    path.write_text(text)
    config = load_config(str(path))
    assert config.data.labels == ("no", "1")
    assert (config.train.learning_rate, config.train.remat) == (1e-4, True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("data: {train: x}\ndata: {train: y}", "the key 'data' is given twice"),
        ("data:\n  text: #1 String", "got '' for data.text and the comment '#1 String'"),
        ("data:\n  train: a/set #1.csv", "got 'a/set' for data.train and the comment '#1.csv'"),
        ("name: !!python/object/apply:os.getcwd []", "got the tag !!python/object/apply:os.getcwd"),
        ("name: !mine x", "got the tag !mine"),
        ("name: !!timestamp 2020-01-01", "got the tag !!timestamp"),
        ("seeds: !!set {1, 2}", "got the tag !!set"),
        ("data: &a {train: *a}", "an alias that holds itself"),
        ("data: &a {<<: *a}", "something else than a mapping to take over"),
        ("train: {<<: [1]}", "something else than a mapping to take over"),
        ("? [a, b]\n: 1", "a list or mapping as a key"),
        ("name: *nowhere", "found undefined alias"),
        ("seeds: " + "[" * 5000, "lists or mappings without an end"),
        ("data:\n\ttrain: x", "found character '\\t'"),
        ("name: \x00", "special characters are not allowed"),
        ('name: "\\U00110000"', "chr() arg not in range"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(tmp_path, line, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, line))
    assert expected in str(caught.value)
    assert "mine.yaml: not valid YAML" in str(caught.value)


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        load_config(written(tmp_path, "\n".join(lines)))
    # What is taken over may be nothing, and still multiply.
    lines = ["a0: &a0 {}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        load_config(written(tmp_path, "\n".join(lines)))


def test_very_many_faults_are_told_in_part_and_in_no_time(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(faults, "did_you_mean", lambda *names: asked.append(names) or "?")
    for lines in (
        [f"kay{i}: 1" for i in range(500)],
        ["train:", *(f"  kay{i}: 1" for i in range(500))],
        ["objective:", *(f"  t{i}: {{wight: 1}}" for i in range(500))],
        [f"seeds: [{', '.join(['a'] * 5000)}]"],
    ):
        asked.clear()
        with pytest.raises(ConfigError, match=r"; and others; correct these first$") as caught:
            load_config(written(tmp_path, "\n".join(lines)))
        assert str(caught.value).count("; ") >= faults.MOST_FAULTS
        assert len(asked) <= faults.MOST_FAULTS + 1


def test_a_comment_after_a_blank_and_a_text_in_quotes_are_no_traps(tmp_path):
    config = load_config(
        written(
            tmp_path,
            "data:\n  train: t.csv  # the first\n  text:  # found by its name\n"
            "  label: '#1 String'\n  max_length: 64 #short\n"
            "teacher: {model: t}\nstudent: {layers: [0]}\ndescription: !!str 7\n",
        )
    )
    assert (config.data.train, config.data.text, config.data.label) == ("t.csv", None, "#1 String")
    assert (config.data.max_length, config.description) == (64, "7")


@pytest.mark.parametrize("word", NASTY)
def test_a_saved_config_reads_back_equal_whatever_its_texts_look_like(tmp_path, word):
    config = check(
        {
            **BASE,
            "description": word,
            "data": {"train": "t.csv", "label": word, "labels": [word, f"{word}b"]},
            "teacher": {"model": {"family": "bert", "note": word, word: [word, {"x": word}]}},
            "objective": {word: {"loss": "cross_entropy"}},
        }
    )
    assert load_config(written(tmp_path, dump(config))) == config


def test_any_value_without_a_field_reads_back_equal():
    generator = random.Random(0)
    letters = "".join(NASTY) + "0123456789eE.:-+_#' \n"

    def value(depth: int):
        kind = generator.randrange(8 if depth else 6)
        if kind < 3:
            return "".join(generator.choices(letters, k=generator.randrange(9)))
        if kind == 3:
            return generator.choice([None, True, False, 10**20, -3])
        if kind == 4:
            return generator.choice([1e-5, 1e300, 2.0, 0.1, -1e-310, float("inf")])
        if kind == 5:
            return generator.choice(NASTY)
        if kind == 6:
            return [value(depth - 1) for _ in range(3)]
        return {str(value(0)): value(depth - 1) for _ in range(3)}

    for _ in range(400):
        made = {"key": value(3)}
        text = write_yaml(made)
        assert read_yaml(text, dict[str, Any], where="x") == made, text


def test_quotes_are_those_of_yaml_or_belong_to_the_text():
    assert read_override("'a''b'", str, where="x") == "a'b"
    assert read_override("'a' and 'b'", str, where="x") == "'a' and 'b'"
    assert read_override('"\\u00e9"', str | None, where="x") == "é"
