"""A model family and data sources that a package of someone else's adds."""

import json

import pytest

CAPPED = """
task: language_model
seeds: [0]
data: {source: toy_counting, max_length: 16, tokenizer: {vocabulary: 280}}
teacher:
  model: &llama
    family: capped_llama
    hidden_size: 16
    intermediate_size: 24
    num_hidden_layers: 2
    num_attention_heads: 2
    num_key_value_heads: 1
    logit_cap: 12.0
student: {model: {<<: *llama, num_hidden_layers: 1}}
finetune: {steps: 20, batch_size: 4}
train: {steps: 20, batch_size: 4}
objective:
  soft: {loss: forward_kl}
  hard: {loss: cross_entropy}
accept: [teacher_skill]
telemetry: {progress: none}
parallel: {data: 1}
"""
POINTS = """
seeds: [0]
data: {source: toy_points}
teacher: {model: {family: mlp, hidden_sizes: [16]}}
student: {model: {family: mlp, hidden_sizes: [16]}}
finetune: {epochs: 8, batch_size: 16, learning_rate: 1.0e-2}
train: {epochs: 8, batch_size: 16, learning_rate: 1.0e-2}
objective:
  soft: {loss: forward_kl}
accept: [teacher_skill]
telemetry: {progress: none}
parallel: {data: 1}
"""


@pytest.mark.slow
def test_a_family_is_listed_trained_exported_and_planned(installed):
    folder, run = installed
    (folder / "capped.yaml").write_text(CAPPED, encoding="utf-8")
    (line,) = (line for line in run("methods").stdout.splitlines() if "capped_llama" in line)
    assert "texts; lm  [Shazeer 2020, GLU Variants Improve Transformer]" in line
    done = run("run", "capped.yaml", "--workdir", "capped")
    assert done.returncode == 0, done.stderr[-2000:]
    exported = json.loads((folder / "capped/export/student/config.json").read_text())
    assert exported["model_type"] == "capped_llama"
    assert exported["architectures"] == ["CappedLlamaForCausalLM"]
    assert (exported["logit_cap"], exported["num_hidden_layers"]) == (12.0, 1)
    # The folder is a teacher for others.
    again = run("finetune", "capped.yaml", "teacher.model=capped/export/student")
    assert again.returncode == 0, again.stderr[-2000:]
    planned = run("plan", "capped.yaml", "--topology", "cpu:1", "--json", "capped.json")
    assert planned.returncode == 0, planned.stderr[-2000:]
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24 + 2 * 16
    breakdown = json.loads((folder / "capped.json").read_text())["breakdown"]
    assert breakdown["parameters"] == 4 * (layer + 16 + 2 * 280 * 16)
    wrong = run("plan", "capped.yaml", "--topology", "cpu:1", "student.model.family=caped_llama")
    assert wrong.returncode == 2
    assert "Did you mean 'capped_llama'?" in wrong.stderr


@pytest.mark.slow
def test_a_source_is_listed_checked_read_and_planned(installed):
    folder, run = installed
    (folder / "points.yaml").write_text(POINTS, encoding="utf-8")
    listed = run("methods").stdout
    assert "Two clouds of points on a plane, one for each class" in listed
    assert "Sentences that count, for language models" in listed
    wrong = run("run", "points.yaml", "data.source=toy_point")
    assert wrong.returncode == 2
    assert "Did you mean 'toy_points'?" in wrong.stderr
    idle = run("run", "points.yaml", "data.train=x.csv")
    assert idle.returncode == 2
    assert "data.source is 'toy_points'" in idle.stderr
    done = run("run", "points.yaml", "--workdir", "points")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "points/result.json").read_text())
    assert result["student_distilled"]["values"][0] > 0.9
    exported = json.loads((folder / "points/export/student/config.json").read_text())
    assert exported["id2label"] == {"0": "left", "1": "right"}
    planned = run("plan", "points.yaml", "--topology", "cpu:1", "--json", "points.json")
    assert planned.returncode == 0, planned.stderr[-2000:]
    breakdown = json.loads((folder / "points.json").read_text())["breakdown"]
    assert breakdown["parameters"] == 4 * (2 * 16 + 16 + 16 * 2 + 2)
