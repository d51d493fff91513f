"""A student narrower than its teacher, by configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdistill.config.load import check
from jaxdistill.distill import models as build
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models.registry import build_model, load_model, save_model

GPT2 = {"family": "gpt2", "vocab_size": 265, "n_embd": 32, "n_layer": 2, "n_head": 2}
NARROW = {"hidden_size": 16, "heads": 1, "mlp_size": 40, "calibration_batches": 2}


def values(folders: tuple[str, str], student: dict[str, Any]) -> dict[str, Any]:
    corpus, teacher = folders
    return {
        "name": "toy",
        "task": "language_model",
        "data": {"train": corpus, "max_length": 16, "tokenizer": {"vocabulary": 265}},
        "teacher": {"model": teacher},
        "student": student,
        "train": {"batch_size": 4},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """A corpus, and a teacher that has not been trained."""
    root: Path = tmp_path_factory.mktemp("narrow")
    (root / "corpus").mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        words = random.choice(["def", "return", "x", "y", "+", "(", ")", ":"], 40)
        (root / "corpus" / f"{number}.txt").write_text(" ".join(words) + "\n")
    save_model(root / "teacher", build_model({**GPT2, "n_positions": 16}))
    return str(root / "corpus"), str(root / "teacher")


@pytest.mark.slow
def test_width_and_layers_are_cut_on_batches_of_the_data(folders, tmp_path):
    config = check(values(folders, {**NARROW, "layers": 1}))
    dataset = build.load_data(config, tmp_path)
    student = build.make_student(config, dataset, None, seed=0)
    shape = student.config.shape
    assert (shape.width, shape.heads, shape.inner, shape.depth) == (16, 1, 40, 1)
    teacher = load_model(folders[1])
    table = np.asarray(student.params["embeddings"]["word"]["table"])
    whole = np.asarray(teacher.params["embeddings"]["word"]["table"])
    kept = [int(np.abs(whole - column[:, None]).sum(0).argmin()) for column in table.T]
    assert kept == sorted(set(kept))
    np.testing.assert_array_equal(table, whole[:, kept])
    again = build.make_student(config, dataset, None, seed=1)
    np.testing.assert_array_equal(again.params["embeddings"]["word"]["table"], table)
    wide = check(values(folders, {"mlp_size": 40, "calibration_batches": 1}))
    shape = build.make_student(wide, dataset, None, seed=0).config.shape
    assert (shape.width, shape.inner, shape.depth) == (32, 40, 2)


def test_faulty_sizes_are_named(folders, tmp_path):
    both = {"model": {"family": "gpt2"}, "mlp_size": 8}
    with pytest.raises(ConfigError, match=r"mlp_size: got both student.model and student.mlp_size"):
        check(values(folders, both))
    config = check(values(folders, {"heads": 1, "calibration_batches": 1}))
    dataset = build.load_data(config, tmp_path)
    with pytest.raises(ModelError, match=r"student.hidden_size: got 32 with 1 heads, expected 16"):
        build.make_student(config, dataset, None, seed=0)
