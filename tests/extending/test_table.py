"""A kind of input of someone else's is read, checked, trained, kept, exported and planned."""

import json

import numpy as np
import pytest

ROWS = 240
CONFIG = """
seeds: [0]
data:
  train: people.csv
  modality: table
  inputs: {numbers: [age, income], categories: [city], most: 4}
teacher: {model: {family: mlp, hidden_sizes: [32]}}
student: {model: {family: mlp, hidden_sizes: [6]}}
finetune: {epochs: 30, learning_rate: 1.0e-2}
train: {epochs: 30, learning_rate: 1.0e-2}
telemetry: {progress: none}
parallel: {data: 1}
"""


def people() -> list[tuple[float, float, str, str]]:
    """People who buy or not by age and city; income is large and says nothing."""
    random = np.random.default_rng(0)
    ages, incomes = random.uniform(18, 80, ROWS), random.normal(40_000, 9_000, ROWS)
    cities = random.choice(["Bonn", "Köln", "Mainz"], ROWS, p=[0.5, 0.3, 0.2])
    buys = (ages > 45) ^ (cities == "Köln")
    words = np.where(buys, "yes", "no").tolist()
    return list(zip(ages.round(2).tolist(), incomes.round().tolist(), cities, words, strict=True))


@pytest.fixture(scope="module")
def people_beside(installed):
    folder, run = installed
    lines = ["age,income,city,label", *(",".join(map(str, row)) for row in people())]
    (folder / "people.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "people.yaml").write_text(CONFIG, encoding="utf-8")
    return folder, run


@pytest.mark.slow
def test_it_is_listed_and_its_options_are_checked(people_beside):
    _, run = people_beside
    (line,) = (line for line in run("methods").stdout.splitlines() if line.startswith("  table "))
    assert "Numbers standardized by the training split" in line
    assert "(numbers, categories, features)" in line
    for change, message in {
        "data.inputs.nubmers=[age]": "data.inputs.nubmers: unknown key. Did you mean 'numbers'?",
        "data.inputs.most=1": "data.inputs.most: got 1, expected a number greater than or equal",
        "data.inputs.numbers=[agee]": "has no column 'agee', expected one of ['age', 'income', "
        "'city', 'label']. Did you mean 'age'?",
        "data.modality=tabel": "data.modality: got 'tabel', expected one of",
        "data.max_length=9": "data.max_length: got a value that has no effect: it is of texts",
        "student.model={family: bert}": "models: got teacher.model a mapping, which reads features",
        "student.model={family: cnn}": "expected such as read table (data.modality)",
    }.items():
        refused = run("run", "people.yaml", change, "--workdir", "refused")
        assert refused.returncode == 2, refused.stderr[-2000:]
        assert message in refused.stderr


@pytest.mark.slow
def test_it_is_trained_exported_and_kept(people_beside):
    folder, run = people_beside
    done = run("run", "people.yaml", "--workdir", "people")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "people/result.json").read_text())
    assert result["student_distilled"]["values"][0] > 0.85
    names = {row["name"] for row in json.loads((folder / "people/doctor.json").read_text())}
    assert "categories" in names
    exported = folder / "people/export/student"
    assert json.loads((exported / "config.json").read_text())["num_features"] == 2 + 4
    kept = json.loads((exported / "preprocessor_config.json").read_text())["table"]
    assert kept["categories"]["city"] == {"Bonn": 1, "Köln": 2, "Mainz": 3}
    mean, deviation = kept["moments"]["income"]
    # Of the training split alone: four fifths of the rows.
    incomes = np.array([row[1] for row in people()])
    assert 0 < abs(mean - incomes.mean()) < 1500
    assert 0 < abs(deviation - incomes.std()) < 1500
    again = run("run", "people.yaml", "--workdir", "people")
    assert again.returncode == 0
    assert "finetune  done before, kept" in again.stdout + again.stderr
    other = run("run", "people.yaml", "data.inputs.most=5", "--workdir", "people")
    assert other.returncode == 2
    assert "data.inputs.most: 4 -> 5" in other.stderr


@pytest.mark.slow
def test_it_is_planned_without_its_data(people_beside):
    folder, run = people_beside
    change = ("data.train=nowhere.csv", "data.inputs.most=9")
    planned = run("plan", "people.yaml", *change, "--topology", "cpu:1", "--json", "people.json")
    assert planned.returncode == 0, planned.stderr[-2000:]
    features = 2 + 9
    weights = features * 6 + 6 + 6 * 2 + 2
    breakdown = json.loads((folder / "people.json").read_text())["breakdown"]
    assert breakdown["parameters"] == 4 * weights
