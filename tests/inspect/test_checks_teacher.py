"""A teacher that is untrained, at chance or confused is found, and a student as large."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.findings import only
from support.setups import WORDS, encoder, save_tokenizer

from jaxdistill.config import DataConfig
from jaxdistill.data.dataset import prepare
from jaxdistill.inspect import checks_teacher


def test_a_teacher_that_was_never_fine_tuned(healthy):
    fresh = encoder(2)
    assert any(path.startswith("head/output") for path in fresh.initialized)
    message = only(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=fresh)), "fatal")
    assert "freshly initialised" in message
    assert "drop `finetune: null`" in message
    assert not list(checks_teacher.teacher_head(healthy(teacher=fresh)))
    only(checks_teacher.teacher_head(healthy({"finetune": None})), "ok")
    partial = dataclasses.replace(fresh, initialized=("embeddings/word/embedding",))
    only(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=partial)), "warning")


def _skill(healthy, labels, said, config=None):
    setup = healthy(config, teacher_logits=np.eye(3)[said], teacher_labels=labels)
    return checks_teacher.teacher_skill(setup)


def test_a_teacher_at_chance(healthy):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    message = only(_skill(healthy, labels, random.integers(0, 3, 600)), "fatal")
    assert "chance is 33.3 %" in message
    assert "finetune.learning_rate" in message
    assert "another order" not in message
    untrained = _skill(healthy, labels, np.zeros(600, int), {"finetune": None})
    assert "let finetune train it" in only(untrained, "fatal")


def test_a_teacher_hardly_above_the_majority(healthy):
    labels = np.array([0] * 80 + [1] * 20)
    message = only(_skill(healthy, labels, np.array([0] * 82 + [1] * 18)), "ok")
    assert "commonest answer 80.0 %" in message
    message = only(_skill(healthy, labels, np.array([0] * 97 + [1] * 3)), "warning")
    assert "hardly" in message
    assert only(_skill(healthy, labels, np.zeros(100, int)), "fatal")
    # Rare classes found at the price of accuracy are skill where F1 ranks.
    said = np.array([0] * 58 + [1] * 42)
    assert only(_skill(healthy, labels, said), "fatal")
    only(_skill(healthy, labels, said, {"metric": "f1"}), "warning")


def test_a_teacher_with_its_labels_in_another_order(healthy):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    said = np.where(random.uniform(size=300) < 0.9, (labels + 1) % 3, labels)
    message = only(_skill(healthy, labels, said), "fatal")
    assert "with its labels in another order it would be 88.7 %" in message
    assert "0 -> 2, 1 -> 0, 2 -> 1" in message


OUTPUT = np.array([2, 0, 1])  # of the teacher for what is meant: x, y, z
OWN = ("Y", "Z", "X")


@pytest.mark.parametrize(
    ("cells", "own", "wanted", "said"),
    [
        (["0", "1", "2"], OWN, None, "[X, Y, Z]"),
        (["0", "1", "2"], OWN, ["Z", "Y", "X"], "[X, Y, Z]"),
        (["0", "1", "2"], None, None, "[LABEL_2, LABEL_0, LABEL_1]"),
        (["x", "y", "z"], None, None, "[y, z, x]"),
        (["x", "y", "z"], None, ["z", "x", "y"], "[y, z, x]"),
        (["10", "20", "30"], None, None, "['20', '30', '10']"),
        (["0", "1", "2"], None, ["x", "y", "z"], "[LABEL_2, LABEL_0, LABEL_1]"),
        (["u", "v", "w"], OWN, ["u", "v", "w"], "[v, w, u]"),
        (["x", "y", "z"], ("X", "Y", "Z"), None, None),
    ],
)
def test_the_order_that_it_says_to_write_is_right(healthy, tmp_path, cells, own, wanted, said):
    meant = np.arange(60) % 3
    path = tmp_path / "a.csv"
    rows = [f"{'good film ' * (row + 1)},{cells[m]}" for row, m in enumerate(meant)]
    path.write_text("\n".join(["text,label", *rows]))
    folder = Path(save_tokenizer(tmp_path / "teacher", WORDS))
    if own is not None:
        table = {str(index): name for index, name in enumerate(own)}
        (folder / "config.json").write_text(json.dumps({"id2label": table}))

    def read(labels):
        config = DataConfig(train=str(path), validation=str(path), labels=labels)
        return prepare(config, task="classification", tokenizer_folder=folder, labels=own)

    dataset = read(wanted)
    logits = np.eye(3)[OUTPUT[meant]]
    config = {
        "data": {"train": str(path), "max_length": 16, "labels": wanted},
        "teacher": {"model": str(folder)},
    }
    setup = healthy(
        config, dataset=dataset, teacher_logits=logits, teacher_labels=dataset.validation.labels
    )
    message = only(checks_teacher.teacher_skill(setup), "fatal")
    if said is None:
        assert "correct id2label to {0: 'Y', 1: 'Z', 2: 'X'}" in message
        return
    told = yaml.safe_load(message.split("set data.labels=")[1])
    assert told == yaml.safe_load(said)
    after = read(told)
    np.testing.assert_array_equal(after.validation.labels, OUTPUT[meant])


def test_teachers_of_other_tasks(healthy):
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    setup = healthy({"task": "regression"}, teacher_labels=values, teacher_logits=-values[:, None])
    assert "-1.000; it has nothing to teach" in only(checks_teacher.teacher_skill(setup), "fatal")
    setup = dataclasses.replace(setup, teacher_logits=values[:, None] + 1)
    only(checks_teacher.teacher_skill(setup), "ok")

    flags = random.integers(0, 2, (200, 3))
    setup = healthy(
        {"task": "multilabel"}, teacher_labels=flags, teacher_logits=np.where(flags, 1.0, -1.0)
    )
    assert "exact_match is 100.0 %" in only(checks_teacher.teacher_skill(setup), "ok")
    never = dataclasses.replace(setup, teacher_logits=-np.ones((200, 3)))
    only(checks_teacher.teacher_skill(never), "fatal")


def test_a_student_that_is_not_smaller(healthy):
    setup = healthy()
    swapped = healthy(teacher=setup.student, student=setup.teacher)
    assert "exchanged" in only(checks_teacher.sizes(swapped), "warning")
