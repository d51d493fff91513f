"""Functions of others hear of a run's metrics, evaluations and checkpoints."""

import json

import pytest

from jaxdistill.engine import hooks
from jaxdistill.errors import ConfigError, DataError

CONFIG = """
seeds: [0]
data: {source: digits}
teacher: {model: {family: mlp, hidden_sizes: [8]}}
student: {model: {family: mlp, hidden_sizes: [8]}}
finetune: {steps: 6, evaluate_every: 3, keep: last}
telemetry: {progress: none, log_every: 2}
parallel: {data: 1}
"""


@pytest.mark.slow
def test_a_plugin_hears_what_a_run_logs(installed):
    folder, run = installed
    (folder / "told.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "told.jsonl").unlink(missing_ok=True)
    done = run("finetune", "told.yaml", "--workdir", "told")
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
    rows = (folder / "told/finetune/metrics.jsonl").read_text().splitlines()
    logged = [json.loads(row) for row in rows]
    heard = [(step, row["loss"]) for moment, _, step, row in told if moment == "on_step"]
    assert heard == [(row["step"], row["loss"]) for row in logged if "event" not in row]
    assert [step for step, _ in heard] == [2, 4, 6]
    measured = [(step, row["accuracy"]) for moment, _, step, row in told if moment[3] == "e"]
    assert measured == [(row["step"], row["accuracy"]) for row in logged if "event" in row]
    saves = [(step, where) for moment, _, step, where in told if moment == "on_save"]
    assert saves == [(6, str((folder / "told/finetune/checkpoints").resolve()))]
    assert {stage for _, stage, _, _ in told} == {"finetune seed 0"}


@pytest.mark.slow
def test_of_several_processes_one_tells(installed):
    folder, run = installed
    (folder / "told.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "told.jsonl").unlink(missing_ok=True)
    launch = ("launch", "--local-processes", "2", "--devices-per-process", "1")
    done = run(*launch, "finetune", "told.yaml", "--workdir", "both", "parallel.data=2")
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
    steps = {moment: [step for name, _, step, _ in told if name == moment] for moment, *_ in told}
    assert steps == {"on_step": [2, 4, 6], "on_evaluation": [3, 6], "on_save": [6]}


@pytest.fixture
def nothing_registered(monkeypatch):
    monkeypatch.setattr(hooks, "_REGISTERED", [])


def test_hooks_are_called_in_order_with_a_copy_each(nothing_registered):
    seen = []

    def first(step, metrics, *, stage):
        seen.append(("first", step, stage))
        metrics.clear()

    hooks.register_hooks(on_step=first)
    hooks.register_hooks(on_step=lambda step, metrics, *, stage: seen.append(metrics))
    hooks.register_hooks(on_evaluation=lambda *_, **__: seen.append("never"))
    hooks.tell(hooks.registered_hooks(), "on_step", 3, {"loss": 1.0}, "distill seed 0")
    assert seen == [("first", 3, "distill seed 0"), {"loss": 1.0}]


def test_the_same_functions_are_registered_once(nothing_registered):
    for _ in range(2):
        hooks.register_hooks(on_save=print)
    assert len(hooks.registered_hooks()) == 1
    with pytest.raises(ConfigError, match="got no function, expected one of on_step"):
        hooks.register_hooks()


def test_a_hook_that_fails_is_named(nothing_registered):
    def broken(step, metrics, *, stage):
        raise KeyError("accuracy")

    def refuses(step, metrics, *, stage):
        raise DataError("not this")

    with pytest.raises(ConfigError, match=r"hook on_step \(.*broken\): got KeyError: 'accuracy'"):
        hooks.tell([hooks.Hooks(on_step=broken)], "on_step", 1, {}, "x")
    with pytest.raises(DataError, match="not this"):
        hooks.tell([hooks.Hooks(on_step=refuses)], "on_step", 1, {}, "x")
