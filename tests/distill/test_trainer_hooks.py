"""Whom a seed's training tells what it logs, measures and saves."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxdistill.config.load import check
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import make_trainer, run_seed
from jaxdistill.engine import hooks

MOMENTS = ("on_step", "on_evaluation", "on_save")
MODEL = {"family": "mlp", "hidden_sizes": [5]}
VALUES = {
    "data": {"source": "digits", "train_examples": 64},
    "teacher": {"model": MODEL},
    "student": {"model": MODEL},
    "train": {"steps": 6, "batch_size": 16, "evaluate_every": 3},
    "telemetry": {"progress": "none", "log_every": 2},
    "parallel": {"data": 1, "compilation_cache": False},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains with one seed in a folder, and gives the rows that were logged."""
    config = check(VALUES)
    dataset = build.load_data(config, tmp_path_factory.mktemp("data"))
    model = build.make_student(config, dataset, None, seed=0)
    trainer = make_trainer(config, config.train, dataset, model, stage="baseline")

    def run(folder: Path, seed: int = 0, **given: Any) -> list[dict[str, Any]]:
        run_seed(trainer, model, folder, seed, **given)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(hooks, "_REGISTERED", [])


def hearing(told: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a function for each moment that notes what it is told."""

    def hear(moment: str) -> Any:
        return lambda step, what, *, stage: told.append((moment, step, what, stage))

    return {moment: hear(moment) for moment in MOMENTS}


def test_hooks_given_to_a_run_hear_its_numbers_and_those_registered_do_not(trained, tmp_path):
    told: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    hooks.register_hooks(**hearing(others))
    rows = trained(tmp_path, seed=3, hooks=[hooks.Hooks(**hearing(told))])
    heard = {moment: [call[1:3] for call in told if call[0] == moment] for moment in MOMENTS}
    logged = [(row["step"], row["loss"]) for row in rows if "event" not in row]
    assert [step for step, _ in logged] == [2, 4, 6]
    assert [(step, what["loss"]) for step, what in heard["on_step"]] == logged
    measured = [(row["step"], row["accuracy"]) for row in rows if "event" in row]
    assert [(step, what["accuracy"]) for step, what in heard["on_evaluation"]] == measured
    folder = (tmp_path / "checkpoints").resolve()
    assert heard["on_save"] == [(3, folder), (6, folder)]
    assert {stage for *_, stage in told} == {"baseline seed 3"}
    assert others == []


def test_hooks_that_are_registered_hear_every_run_that_is_given_none(trained, tmp_path):
    told: list[tuple[Any, ...]] = []
    hooks.register_hooks(**hearing(told))
    trained(tmp_path / "heard")
    heard = [call[:2] for call in told]
    assert heard.count(("on_step", 6)) == 1
    assert [step for moment, step in heard if moment == "on_save"] == [3, 6]
    told.clear()
    trained(tmp_path / "silent", hooks=())
    assert told == []
