"""What a package of someone else's adds is used from a YAML file, listed and planned."""

import json

import pytest

from jaxdistill.config.base import Section
from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError
from jaxdistill.methods import registry
from jaxdistill.methods.method import Method

CONFIG = """
seeds: [0]
data: {source: digits}
teacher: {model: {family: cnn, hidden_sizes: [8, 16], dense_size: 16}}
student: {model: {family: mlp, hidden_sizes: [24]}}
finetune: {epochs: 1}
train: {epochs: 1}
objective:
  hint: {loss: two_layer_hint, teacher_layer: 1, width: 20}
  hard: {loss: cross_entropy}
accept: [teacher_skill]
telemetry: {progress: none}
parallel: {data: 1}
"""


@pytest.mark.slow
def test_a_method_is_listed_trained_and_planned(installed):
    folder, run = installed
    (folder / "hints.yaml").write_text(CONFIG, encoding="utf-8")
    listed = run("methods")
    (line,) = (line for line in listed.stdout.splitlines() if "two_layer_hint" in line)
    assert "Squared distance of the teacher's pooled features" in line
    assert "[arXiv 1412.6550]" in line
    refused = run("run", "hints.yaml", "objective.hint.wdth=3")
    assert refused.returncode == 2
    assert "objective.hint.wdth: unknown key. Did you mean 'width'?" in refused.stderr
    done = run("run", "hints.yaml", "--workdir", "work")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (folder / "work/distill/seed-0/metrics.jsonl").read_text().splitlines()
    hints = [row["hint"] for row in map(json.loads, rows) if "hint" in row]
    assert hints[-1] < hints[0]
    exported = json.loads((folder / "work/export/student/config.json").read_text())
    assert exported["hidden_sizes"] == [24]
    planned = run("plan", "hints.yaml", "--topology", "cpu:1", "--json", "plan.json")
    assert planned.returncode == 0, planned.stderr[-2000:]
    # The map of 24 x 20 and 20 x 16 is trained beside the student of 64 x 24 and 24 x 10.
    weights = 24 * 20 + 20 * 16 + 64 * 24 + 24 + 24 * 10 + 10
    breakdown = json.loads((folder / "plan.json").read_text())["breakdown"]
    assert breakdown["parameters"] == 4 * weights
    # Its running mean of 16 numbers and a count are held and saved, and counted beside the moments.
    carried = 4 * 16 + 4
    assert carried <= breakdown["optimizer"] - 2 * 4 * weights < carried + 40
    saved = [
        path.read_text()
        for path in folder.glob("work/distill/seed-0/checkpoints/*/state/*")
        if path.name == "_METADATA"
    ]
    assert saved
    assert all("method_state" in text and "steps" in text for text in saved)


def test_a_registered_method_is_known_to_configs(monkeypatch):
    class Options(Section):
        sharpness: float = 1.0

    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry.register_method(Method("sharp", "logits", lambda student, teacher, **_: 0, Options))
    values = {"data": {"source": "digits"}, "teacher": {"model": {"family": "cnn"}}}
    values |= {"student": {"model": {"family": "mlp"}}}
    config = check({**values, "objective": {"a": {"loss": "sharp", "sharpness": 2}}})
    assert config.terms["a"].options == {"sharpness": 2.0}
    with pytest.raises(ConfigError, match=r"objective.a.temperature: unknown key for the loss 'sh"):
        check({**values, "objective": {"a": {"loss": "sharp", "temperature": 2}}})
    with pytest.raises(ConfigError, match=r"objective.a.sharpness: got 'x', expected a number"):
        check({**values, "objective": {"a": {"loss": "sharp", "sharpness": "x"}}})
    with pytest.raises(ConfigError, match=r"objective.a.loss: got 'sharb'.*Did you mean 'sharp'"):
        check({**values, "objective": {"a": {"loss": "sharb"}}})


@pytest.mark.parametrize("name", ["forward_kl", "mine"])
def test_a_name_is_given_once(name, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry.register_method(Method("mine", "logits", lambda *_: 0))
    with pytest.raises(ConfigError, match=f"got the name {name!r}, which another method has"):
        registry.register_method(Method(name, "labels", lambda *_: 1))
