"""Which head a model of a run gets, and what it says of its task."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from models.folders import change_config, change_tensors
from support import runs
from support.setups import LABELS, text_dataset

from jaxdistill.config.load import check
from jaxdistill.distill import models as build
from jaxdistill.errors import DataError, ModelError
from jaxdistill.models.registry import build_model, save_model

PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


MULTI = PROBLEMS["multilabel"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny BERT with a head of three labels, whose config calls it something it is not."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, build_model(runs.SIZES, labels=("a", "b", "c"), seed=1))
    change_config(folder, problem_type=MULTI)
    return folder


def config(task, teacher, student, **fields):
    return check(
        {
            "task": task,
            "data": {"train": "train.tsv"},
            "teacher": teacher,
            "student": student,
            **fields,
        }
    )


def outputs(model):
    return model.params["head"]["output"]["kernel"].shape[1]


@pytest.mark.parametrize("task", list(PROBLEMS))
def test_every_model_of_a_run_says_the_task(saved, task, tmp_path):
    number = task == "regression"
    count, names = (1, None) if number else (2, LABELS)
    dataset = dataclasses.replace(text_dataset(), num_labels=count, labels=names)
    anew = {"model": str(saved), "fresh_head": True}
    sliced = config(task, anew, {"layers": [0]})
    teacher = build.load_teacher(sliced, dataset, training=True, seed=0)
    save_model(tmp_path / "finetuned", teacher)
    change_config(
        tmp_path / "finetuned", problem_type="regression" if task != "regression" else MULTI
    )
    made = {
        "teacher": teacher,
        "fine-tuned": build.load_finetuned(tmp_path / "finetuned", sliced, dataset),
        "layers": build.make_student(sliced, dataset, None, 0),
        "folder": build.make_student(config(task, anew, anew), dataset, None, 0),
        "mapping": build.make_student(config(task, anew, {"model": runs.SIZES}), dataset, None, 0),
    }
    for name, model in made.items():
        assert model.options is not None
        assert model.options.problem_type == PROBLEMS[task], name
        assert outputs(model) == dataset.num_labels, name
        assert model.labels == dataset.labels, name


def test_new_heads_are_drawn_where_asked_for_and_nowhere_else(saved, tmp_path):
    dataset = text_dataset()
    sliced = config("classification", {"model": str(saved), "fresh_head": True}, {"layers": [0]})
    teacher = build.load_teacher(sliced, dataset, training=True, seed=0)
    assert set(teacher.initialized) == {"head/output/kernel", "head/output/bias"}
    folder = tmp_path / "finetuned"
    save_model(folder, teacher)
    # What the fine-tune left is taken as it is, by the teacher and by a student of its layers.
    kept = np.asarray(teacher.params["head"]["output"]["kernel"])
    later = build.load_finetuned(folder, sliced, dataset)
    np.testing.assert_array_equal(later.params["head"]["output"]["kernel"], kept)
    student = {"layers": [0], "initialize_from": "finetuned"}
    finetuned = config("classification", {"model": str(saved), "fresh_head": True}, student)
    sliced = build.make_student(finetuned, dataset, folder, 5)
    np.testing.assert_array_equal(sliced.params["head"]["output"]["kernel"], kept)
    anew = config("classification", finetuned.teacher.model_dump(), student | {"fresh_head": True})
    drawn = build.make_student(anew, dataset, folder, 5).params["head"]["output"]["kernel"]
    assert not np.allclose(drawn, kept)
    np.testing.assert_array_equal(
        build.make_student(anew, dataset, folder, 5).params["embeddings"]["word"]["table"],
        teacher.params["embeddings"]["word"]["table"],
    )


def test_what_a_stage_left_must_be_whole(saved, tmp_path):
    dataset = text_dataset()
    run = config("classification", {"model": str(saved), "fresh_head": True}, {"layers": [0]})
    folder = tmp_path / "model"
    save_model(folder, build.load_teacher(run, dataset, training=True, seed=0))
    parts = [f"classifier.{part}" for part in ("weight", "bias")]
    change_tensors(folder, lambda tensors: [tensors.pop(name) for name in parts])
    with pytest.raises(ModelError, match=f"{folder}: holds no head/output/kernel.*run again"):
        build.load_finetuned(folder, run, dataset)


def test_data_of_another_kind_than_the_models_read(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\na good film\t1\na bad film\t0\n")
    images = config("classification", {"model": {"family": "vit"}}, {"model": {"family": "cnn"}})
    images = images.model_copy(update={"data": images.data.model_copy(update={"train": str(path)})})
    with pytest.raises(DataError, match=r"holds texts in \['sentence'\], expected images, which"):
        build.load_data(images, tmp_path / "cache")


def test_labels_that_the_head_does_not_know_name_the_way_out(tmp_path):
    rows = [{"text": "good", "label": "fine"}, {"text": "bad", "label": "poor"}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    teacher = runs.write_teacher(tmp_path / "teacher")
    run = config("classification", {"model": teacher}, {"layers": [0]})
    data = run.data.model_copy(update={"train": str(path)})
    run = run.model_copy(update={"data": data})
    with pytest.raises(DataError, match=r"'fine'.*labels of teacher.model.*teacher.fresh_head=tru"):
        build.load_data(run, tmp_path / "cache")
    student = run.model_copy(
        update={
            "teacher": run.teacher.model_copy(update={"model": runs.SIZES}),
            "student": config("classification", {"model": teacher}, {"model": teacher}).student,
        }
    )
    with pytest.raises(DataError, match=r"labels of student.model.*student.fresh_head=true"):
        build.load_data(student, tmp_path / "cache")
