"""A task that a package of someone else's adds, from a YAML file to a verdict."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError
from jaxdistill.tasks import registry
from jaxdistill.tasks.task import Metric

CONFIG = """
task: ordered_grades
seeds: [0]
data: {source: digits}
teacher: {model: {family: mlp, hidden_sizes: [48]}}
student: {model: {family: mlp, hidden_sizes: [16]}}
finetune: {epochs: 10, learning_rate: 0.003}
train: {epochs: 4, learning_rate: 0.003}
telemetry: {progress: none}
parallel: {data: 1}
"""


@pytest.mark.slow
def test_a_task_is_listed_trained_and_planned(installed):
    folder, run = installed
    (folder / "grades.yaml").write_text(CONFIG, encoding="utf-8")
    (line,) = (line for line in run("methods").stdout.splitlines() if "ordered_grades" in line)
    assert "thresholds that it passes (arXiv 1901.07884); grade_error" in line
    refused = run("run", "grades.yaml", "metric=accuracy")
    assert refused.returncode == 2
    told = "metric: got 'accuracy' for task 'ordered_grades', expected one of ['grade_error']"
    assert told in refused.stderr
    done = run("run", "grades.yaml", "--workdir", "grades")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "grades/result.json").read_text())
    assert result["metric"] == "grade_error"
    assert not result["higher_is_better"]
    with np.load(folder / "grades/evaluate/predictions.npz") as arrays:
        labels, logits = arrays["labels"], arrays["teacher_logits"]
    # A digit d passes the thresholds 0 to d - 1.
    digits = load_digits().target
    assert labels.shape[1] == 9
    assert set(labels.sum(-1)) == set(digits)
    error = np.abs((logits > 0).sum(-1) - labels.sum(-1)).mean()
    assert result["teacher"]["values"] == [pytest.approx(error)]
    assert error < np.abs(digits - np.median(digits)).mean() / 2
    exported = json.loads((folder / "grades/export/student/config.json").read_text())
    assert exported["id2label"]["8"] == "above 8"
    planned = run("plan", "grades.yaml", "data.labels=[a,b,c,d,e,f,g,h,i]",
                  "--topology", "cpu:1", "--json", "grades.json")  # fmt: skip
    assert planned.returncode == 0, planned.stderr[-2000:]
    breakdown = json.loads((folder / "grades.json").read_text())["breakdown"]
    assert breakdown["parameters"] == 4 * (64 * 16 + 16 + 16 * 9 + 9)


def test_a_registered_task_is_known_to_configs(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    classes = registry.task_named("classification")
    best = Metric("top", "m:top", kind="share")
    registry.register_task(dataclasses.replace(classes, name="mine", metrics=(best,), measured=()))
    values = {"data": {"source": "digits"}, "teacher": {"model": {"family": "cnn"}}}
    values |= {"student": {"model": {"family": "mlp"}}}
    assert check({**values, "task": "mine"}).ranking_metric == "top"
    with pytest.raises(ConfigError, match=r"task: got 'mind', expected .*'mine'.*mean 'mine'"):
        check({**values, "task": "mind"})
    with pytest.raises(ConfigError, match=r"metric: got 'f1' for task 'mine', expected.*'top'"):
        check({**values, "task": "mine", "metric": "f1"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "regression"}, "the name 'regression', which another task has"),
        ({"outputs": "words"}, "outputs: got 'words', expected one of"),
        ({"metrics": ()}, "metrics: got none"),
        ({"measured": ("f2",)}, "measured: got 'f2', expected one of"),
        ({"soft": {}}, "soft: got no 'loss'"),
        ({"blind": None}, "blind: got nothing, expected a function"),
        ({"metrics": (Metric("accuracy", "m:f", kind="amount"),)}, "which is shown otherwise"),
    ],
)
def test_tasks_that_cannot_be_meant_are_refused(fields, message, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    classes = registry.task_named("classification")
    with pytest.raises(ConfigError, match=message):
        registry.register_task(dataclasses.replace(classes, **{"name": "mine", **fields}))
