"""Labels: their order, range, classes and overlap; every planted fault is found."""

import dataclasses
import json

import numpy as np
import pytest
from support.findings import only, with_part
from support.setups import LABELS, encoder, text_dataset

from jaxdistill.data.label_space import LabelSpace
from jaxdistill.doctor import checks_labels


def test_label_order(healthy):
    findings = list(checks_labels.label_order(healthy(teacher=encoder(2, labels=LABELS[::-1]))))
    assert {finding.level for finding in findings} == {"fatal"}
    assert "use models that share the order [positive, negative]" in findings[0].message
    assert "the data has ['negative', 'positive'], the teacher has ['positive'" in str(findings[0])


def test_a_folder_in_another_order_is_read_in_that_of_the_data(healthy, tmp_path):
    table = {"1": "negative", "0": "positive"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": table}))
    only(checks_labels.label_order(healthy({"teacher": {"model": str(tmp_path)}})), "ok")
    without = healthy({"teacher": {"model": str(tmp_path)}}, teacher=None)
    assert {found.level for found in checks_labels.label_order(without)} == {"fatal"}


def test_bare_ids_take_the_teachers_names(healthy, tmp_path):
    space = LabelSpace(2, LABELS, holds_ids=True)
    dataset = dataclasses.replace(text_dataset(), space=space)
    folder = {"teacher": {"model": str(tmp_path)}}
    message = only(checks_labels.label_order(healthy(folder, dataset=dataset)), "warning")
    assert "taken as the teacher's 0 = negative, 1 = positive; if the data counts" in message
    frozen = healthy({**folder, "finetune": None}, dataset=dataset)
    assert "the teacher's skill is their check" in only(checks_labels.label_order(frozen), "ok")
    told = dataclasses.replace(dataset, space=dataclasses.replace(space, source_names=LABELS))
    only(checks_labels.label_order(healthy(folder, dataset=told)), "ok")


def test_label_order_of_the_student(healthy):
    reversed_student = encoder(1, labels=LABELS[::-1])
    findings = list(checks_labels.label_order(healthy(student=reversed_student)))
    assert {finding.level for finding in findings} == {"fatal"}
    assert len(findings) == 2  # against the data and against the teacher


def test_labels_of_other_names(healthy):
    other = encoder(2, labels=("neg", "pos"))
    findings = list(checks_labels.label_order(healthy(teacher=other)))
    assert {finding.level for finding in findings} == {"warning"}
    assert "position 0" in findings[0].message
    same = encoder(2, labels=("Negative", "POSITIVE "))
    only(checks_labels.label_order(healthy(teacher=same)), "ok")
    unnamed = encoder(2, labels=("LABEL_0", "LABEL_1"))
    only(checks_labels.label_order(healthy(teacher=unnamed)), "ok")


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range(healthy, label):
    dataset = text_dataset()
    labels = dataset.train.labels.copy()
    labels[3] = label
    setup = healthy(dataset=with_part(dataset, "train", labels=labels))
    message = only(checks_labels.label_range(setup), "fatal")
    assert message.startswith(f"train: 1 labels are outside 0 to 1 (e.g. {label})")


def test_labels_of_other_tasks(healthy):
    values = text_dataset().train.labels.astype(np.float32)
    values[0] = np.nan
    dataset = dataclasses.replace(with_part(text_dataset(), "train", labels=values), num_labels=1)
    setup = healthy({"task": "regression"}, dataset=dataset, teacher=encoder(1, labels=("x",)))
    findings = list(checks_labels.label_range(dataclasses.replace(setup, student=None)))
    assert "no finite numbers" in findings[0].message

    flags = np.full((64, 2), 0.5, np.float32)
    dataset = with_part(
        with_part(text_dataset(), "train", labels=flags), "validation", labels=flags * 0
    )
    setup = healthy({"task": "multilabel"}, dataset=dataset)
    assert "neither 0 nor 1" in only(checks_labels.label_range(setup), "fatal")


def test_outputs_that_are_not_the_labels(healthy):
    message = only(
        checks_labels.label_range(healthy(student=encoder(1, labels=tuple("abc")))), "fatal"
    )
    assert "the student has 3 outputs, the data has 2 labels" in message


def test_classes_that_are_never_taught(healthy):
    dataset = text_dataset()
    setup = healthy(dataset=with_part(dataset, "train", labels=0 * dataset.train.labels))
    message = only(checks_labels.classes_taught(setup), "warning")
    assert "1 classes of validation never occur in train (positive)" in message


def test_classes_that_are_never_asked(healthy):
    dataset = text_dataset()
    labels = 0 * dataset.validation.labels
    setup = healthy(dataset=with_part(dataset, "validation", labels=labels))
    message = only(checks_labels.classes_taught(setup), "warning")
    assert "1 of 2 classes never occur in validation (positive)" in message


def test_classes_that_are_taught_and_asked(healthy):
    only(checks_labels.classes_taught(healthy()), "ok")
    outside = with_part(text_dataset(), "train", labels=7 + 0 * text_dataset().train.labels)
    assert not list(checks_labels.classes_taught(healthy(dataset=outside)))


def test_overlap(healthy):
    setup = healthy(dataset=text_dataset(**{"validation.seen": 40}))
    message = only(checks_labels.overlap(setup), "warning")
    assert "40 of 400 inputs of validation (10.0 %)" in message
    few = healthy(dataset=text_dataset(**{"validation.seen": 4}))
    assert "4 held-out inputs" in only(checks_labels.overlap(few), "ok")


def test_evaluation_size(healthy):
    dataset = text_dataset()
    setup = healthy(dataset=dataclasses.replace(dataset, test=dataset.train))
    message = only(checks_labels.evaluation_size(setup), "warning")
    assert "64 held-out examples" in message
    assert "±12.5 points" in message
