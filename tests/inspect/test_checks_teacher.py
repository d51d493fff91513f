"""A teacher that is untrained, at chance or confused is found, and a student as large."""

import dataclasses
from pathlib import Path

import numpy as np
from support.findings import only
from support.setups import encoder

from jaxdistill.inspect import checks_teacher


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


def test_teachers_of_other_tasks(healthy):
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    setup = healthy({"task": "regression"}, teacher_labels=values, teacher_logits=-values[:, None])
    message = only(checks_teacher.teacher_skill(setup), "fatal")
    assert "spearman is -1.000, that of always saying the mean is 0.000; it has nothing" in message
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
