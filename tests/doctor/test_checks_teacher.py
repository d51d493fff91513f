"""A teacher that is untrained, at chance or confused is found, and a student as large."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.findings import only
from support.setups import WORDS, encoder, save_tokenizer

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.dataset import prepare
from jaxdistill.doctor import blind, checks_teacher


def test_a_teacher_that_was_never_fine_tuned(healthy):
    fresh = encoder(2)
    assert any(path.startswith("head/output") for path in fresh.initialized)
    message = only(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=fresh)), "fatal")
    assert "freshly initialised" in message
    assert "drop `finetune: null`" in message
    assert not list(checks_teacher.teacher_head(healthy(teacher=fresh)))
    only(checks_teacher.teacher_head(healthy({"finetune": None})), "ok")
    # A new pooler between a good encoder and a good head is as bad as a new head.
    part = dataclasses.replace(fresh, initialized=("pooler/kernel",), source=Path("folder"))
    found = only(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=part)), "fatal")
    assert "folder holds no bert.pooler.dense.weight: finetune is null" in found


def _skill(healthy, labels, said, config=None):
    setup = healthy(config, teacher_logits=np.eye(3)[said], teacher_labels=labels)
    return checks_teacher.teacher_skill(setup)


def test_a_teacher_at_chance(healthy):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    message = only(_skill(healthy, labels, random.integers(0, 3, 600)), "fatal")
    assert f"always giving one answer is {np.bincount(labels).max() / 6:.1f} %" in message
    assert "finetune.learning_rate" in message
    assert "another order" not in message
    untrained = _skill(healthy, labels, np.zeros(600, int), {"finetune": None})
    assert "let finetune train it" in only(untrained, "fatal")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_teacher_that_says_no_numbers(healthy, value):
    labels = np.arange(60) % 3
    logits = np.eye(3)[labels]
    logits[7, 1] = value
    setup = healthy(teacher_logits=logits, teacher_labels=labels)
    message = only(checks_teacher.teacher_skill(setup), "fatal")
    assert f"the teacher says {value} in 1 of 60 rows" in message
    logits[7, 1] = -np.inf  # a class that it rules out
    setup = healthy(teacher_logits=logits, teacher_labels=labels)
    only(checks_teacher.teacher_skill(setup), "ok")


def test_a_teacher_hardly_above_the_majority(healthy):
    labels = np.array([0] * 80 + [1] * 20)
    message = only(_skill(healthy, labels, np.array([0] * 82 + [1] * 18)), "ok")
    assert "one answer is 80.0 %" in message
    message = only(_skill(healthy, labels, np.array([0] * 97 + [1] * 3)), "warning")
    assert "hardly" in message
    assert only(_skill(healthy, labels, np.zeros(100, int)), "fatal")
    # Rare classes found at the price of accuracy are skill where F1 ranks.
    said = np.array([0] * 58 + [1] * 42)
    assert "set metric=f1 if rare labels matter" in only(_skill(healthy, labels, said), "fatal")
    only(_skill(healthy, labels, said, {"metric": "f1"}), "ok")


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
    described: dict[str, Any] = {"model_type": "bert"}
    if own is not None:
        described["id2label"] = {str(index): name for index, name in enumerate(own)}
    (folder / "config.json").write_text(json.dumps(described))

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
    message = only(checks_teacher.teacher_skill(setup), "fatal")
    assert (
        "spearman is -1.000, that of always giving one answer is 0.000 at best; it has nothing"
        in message
    )
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


def test_a_teacher_of_rare_labels_is_judged_by_the_metric_that_ranks(healthy):
    random = np.random.default_rng(0)
    meant = (random.uniform(size=(800, 3)) < 0.04).astype(int)
    guessed = meant | (random.uniform(size=meant.shape) < 0.05)  # finds all, and cries wolf
    logits = np.where(guessed, 1.0, -1.0)

    def skill(metric):
        config = {"task": "multilabel", "metric": metric}
        return checks_teacher.teacher_skill(
            healthy(config, teacher_logits=logits, teacher_labels=meant)
        )

    told = only(skill("f1"), "ok")
    assert "f1 is 0.6" in told
    assert "exact" not in told
    assert "set metric=f1 if rare labels matter" in only(skill("exact_match"), "fatal")


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("classification", "accuracy"),
        ("classification", "f1"),
        ("classification", "matthews"),
        ("multilabel", "exact_match"),
        ("multilabel", "f1"),
        ("regression", "mse"),
    ],
)
def test_what_one_answer_reaches_is_what_a_dummy_of_scikit_learn_does(task, metric):
    dummy = pytest.importorskip("sklearn.dummy")
    scores = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(1)
    if task == "regression":
        labels = random.normal(2, 3, 200)
        said = dummy.DummyRegressor(strategy="mean").fit(labels, labels).predict(labels)
        expected = scores.mean_squared_error(labels, said)
        assert checks_teacher.blind_value(task, metric, labels, 1) == pytest.approx(expected)
        return
    if task == "classification":
        labels = random.choice(4, 300, p=[0.1, 0.2, 0.3, 0.4])
        answers = [np.full(300, c) for c in range(4)]
    else:
        labels = (random.uniform(size=(300, 3)) < [0.2, 0.6, 0.7]).astype(int)
        most = dummy.DummyClassifier(strategy="most_frequent").fit(labels, labels).predict(labels)
        answers = [np.zeros_like(labels), np.ones_like(labels), most]
    measure = {
        "accuracy": scores.accuracy_score,
        "exact_match": scores.accuracy_score,
        "matthews": scores.matthews_corrcoef,
        "f1": lambda meant, said: scores.f1_score(meant, said, average="macro", zero_division=0),
    }[metric]
    expected = max(measure(labels, said) for said in answers)
    found = checks_teacher.blind_value(
        task, metric, labels, labels.max() + 1 if task == "classification" else 3
    )
    assert found == pytest.approx(expected)


def test_association_is_that_of_scikit_learn_and_scipy():
    scores, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 200)
    logits = np.eye(3)[labels] + random.normal(size=(200, 3))
    expected = scores.matthews_corrcoef(labels, logits.argmax(-1))
    assert blind.class_association(logits, labels) == pytest.approx(expected)
    one = (labels == 1).astype(int)[:, None]
    said = np.where(logits[:, 1:2] > 0.5, 1.0, -1.0)
    expected = scores.matthews_corrcoef(one[:, 0], said[:, 0] > 0)
    assert blind.decision_association(said, one) == pytest.approx(expected)
    values = labels + random.normal(size=200)
    expected = stats.spearmanr(values, labels).statistic
    found = blind.value_association(values[:, None], labels.astype(float))
    assert found == pytest.approx(expected)
    nothing = -np.ones((200, 2))
    flags = random.integers(0, 2, (200, 2))
    assert blind.decision_association(nothing, flags) == 0


def test_teachers_that_know_but_score_no_more_than_one_answer(healthy):
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    config = {"task": "regression", "metric": "mse"}
    shifted = healthy(config, teacher_labels=values, teacher_logits=values[:, None] + 3)
    assert "go with the labels" in only(checks_teacher.teacher_skill(shifted), "warning")
    noise = healthy(config, teacher_labels=values, teacher_logits=random.normal(size=(200, 1)) * 2)
    only(checks_teacher.teacher_skill(noise), "fatal")
    # Always yes has an F1 of 0.9 where 82 % are yes.
    labels = np.array([1] * 82 + [0] * 18)
    said = np.array([1] * 62 + [0] * 20 + [1] * 2 + [0] * 16)
    yes = healthy({"metric": "f1"}, teacher_logits=np.eye(2)[said], teacher_labels=labels)
    assert "go with the labels" in only(checks_teacher.teacher_skill(yes), "warning")
    weak = healthy({"task": "regression"}, teacher_labels=values, teacher_logits=None)
    almost = dataclasses.replace(
        weak, teacher_logits=(0.05 * values + random.normal(size=200))[:, None]
    )
    assert "hardly" in only(checks_teacher.teacher_skill(almost), "warning")
