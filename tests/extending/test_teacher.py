"""A teacher that is a plain function, of a package of someone else's."""

import json
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from jaxdistill.config import teacher_functions
from jaxdistill.config.base import Section
from jaxdistill.config.effects import effective
from jaxdistill.config.load import check
from jaxdistill.distill.models import load_data
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.teachers.function import speak

SPOKEN = """
seeds: [0]
data: {source: digits}
teacher: {function: {name: most_ink, sharpness: 40}}
student: {model: {family: mlp, hidden_sizes: [24]}}
finetune: null
train: {epochs: 6, learning_rate: 0.01}
objective: {soft: {loss: forward_kl}}
accept: [teacher_skill]
telemetry: {progress: none}
parallel: {data: 1}
"""


@pytest.mark.slow
def test_a_function_teaches_and_is_listed_planned_and_known_again(installed):
    folder, run = installed
    (folder / "spoken.yaml").write_text(SPOKEN, encoding="utf-8")
    (line,) = (line for line in run("methods").stdout.splitlines() if "most_ink" in line)
    assert "Tenth of the picture that holds most ink" in line
    refused = run("run", "spoken.yaml", "teacher.function.sharpnes=3")
    assert refused.returncode == 2
    assert "teacher.function.sharpnes: unknown key. Did you mean 'sharpness'?" in refused.stderr
    done = run("run", "spoken.yaml", "--workdir", "said")
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = (line for line in done.stdout.splitlines() if line.strip().startswith("teacher"))
    assert row.split()[2:] == ["100.00", "—", "—", "—", "—"]
    result = json.loads((folder / "said/result.json").read_text())
    teacher = result["teacher"]
    assert all(teacher[name] is None for name in ("parameters", "bytes", "latency_ms"))
    with np.load(folder / "said/evaluate/predictions.npz") as kept:
        found = (kept["teacher_logits"].argmax(-1) == kept["labels"]).mean()
    assert teacher["values"] == [pytest.approx(found)]
    # It learned what the function says, which is not what the labels say.
    agreed = (result[f"student_{arm}"]["agreement"][0] for arm in ("distilled", "alone"))
    assert next(agreed) > next(agreed) + 0.1
    assert (folder / "said/report.html").is_file()
    again = run("run", "spoken.yaml", "--workdir", "said", "teacher.function.sharpness=5")
    assert again.returncode == 2
    assert "teacher.function.sharpness: 40.0 -> 5.0" in again.stderr
    planned = run("plan", "spoken.yaml", "--topology", "cpu:1", "--json", "spoken.json")
    assert planned.returncode == 0, planned.stderr[-2000:]
    plan = json.loads((folder / "spoken.json").read_text())
    assert plan["breakdown"]["teacher"] == 0
    assert plan["breakdown"]["parameters"] == 4 * (64 * 24 + 24 + 24 * 10 + 10)


VALUES = {
    "data": {"source": "digits"},
    "teacher": {"function": "mine"},
    "student": {"model": {"family": "mlp"}},
    "finetune": None,
}


def of_zeros(examples, *, scale):
    return scale * np.zeros((len(examples["images"]), 10))


@pytest.fixture
def registered(monkeypatch):
    class Options(Section):
        scale: Annotated[float, Field(gt=0)] = 1.0

    monkeypatch.setattr(teacher_functions, "_REGISTERED", {})
    teacher_functions.register_teacher("mine", of_zeros, Options)


def test_a_function_is_read_with_its_defaults(registered):
    config = check(VALUES)
    assert config.teacher.function == {"name": "mine", "scale": 1.0}
    assert check(effective(config)) == config
    scaled = {**VALUES, "teacher": {"function": {"name": "mine", "scale": 2}}}
    assert check(scaled).teacher.function == {"name": "mine", "scale": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"function": "min"}}, r"teacher.function: got 'min'.*Did you mean 'mine'"),
        ({"teacher": {"function": {"scale": 1}}}, r"teacher.function: got None, expected the name"),
        (
            {"teacher": {"function": {"name": "mine", "scale": -1}}},
            r"teacher.function.scale: got -1, expected greater than 0",
        ),
        (
            {"teacher": {"function": "mine", "model": {"family": "cnn"}}},
            r"teacher.model: got a value beside teacher.function",
        ),
        ({"finetune": {"epochs": 1}}, "finetune: got a value beside.*set finetune=null"),
        ({"cache": {"codec": "full"}}, "cache: got a value beside teacher.function"),
        ({"student": {"layers": 1}}, "student: got a value beside.*no layers to start from"),
        (
            {"objective": {"a": {"loss": "hidden_mse", "layers": {0: 0}}}},
            "objective.a.loss: got 'hidden_mse', which reads the teacher's layers",
        ),
        (
            {"teacher": {"function": "mine", "storage": "int8"}},
            "teacher.storage: got a value that has no effect: it is of models",
        ),
    ],
)
def test_what_a_function_cannot_be_asked_for_is_refused(registered, changes, message):
    with pytest.raises(ConfigError, match=message):
        check({**VALUES, **changes})


def test_a_function_speaks_of_every_example_in_its_place(registered, monkeypatch, tmp_path):
    """The last batch has rows that only fill it, and labels are never shown."""
    seen = set()

    def means(examples):
        seen.update(examples)
        return np.stack([examples["images"].mean((1, 2, 3)) * k for k in range(10)], 1)

    teacher_functions.register_teacher("means", means)
    changes = {"teacher": {"function": "means"}, "data": {"source": "digits", "train_examples": 70}}
    config = check({**VALUES, **changes})
    split = load_data(config, tmp_path).train
    said = speak(config, split, 10)
    expected = np.asarray(split.inputs.images, np.float32).mean((1, 2, 3))
    np.testing.assert_allclose(said[:, 1] - said[:, 0], said[:, 1], atol=1e-6)
    order = np.argsort(expected)
    np.testing.assert_array_equal(np.argsort(said[:, 1]), order)
    assert seen == {"images"}
    with pytest.raises(DataError, match=r"'means' returned \[70, 10\], expected \[70, 3\]"):
        speak(config, split, 3)


@pytest.mark.parametrize("name", ["mine"])
def test_a_teacher_is_named_once(registered, name):
    with pytest.raises(ConfigError, match="'mine', which another function has"):
        teacher_functions.register_teacher(name, lambda examples: 0)


def test_an_option_may_not_be_called_as_the_function_is(registered):
    class Named(Section):
        name: str = "x"

    with pytest.raises(ConfigError, match="got an option 'name' of 'other'"):
        teacher_functions.register_teacher("other", of_zeros, Named)
    assert "other" not in teacher_functions.teacher_functions()
