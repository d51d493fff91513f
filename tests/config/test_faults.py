"""Unknown keys and values of a wrong type are refused in words that help."""

import pytest
from support.configs import fault_of, values_of


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"tain": {}}, ["tain: unknown key", "Did you mean 'train'?"]),
        ({"train": {"lerning_rate": 1}}, ["train.lerning_rate", "Did you mean 'learning_rate'?"]),
        ({"train": {"zzzz": 1}}, ["train.zzzz: unknown key", "Known: ['epochs'"]),
        ({"learning_rate": 1}, ["learning_rate: unknown key. Did you mean finetune.learning_rate"]),
        ({"train": {"lr": 1}}, ["train.lr: unknown key. Did you mean 'learning_rate'?"]),
        ({"max_seq_length": 64}, ["max_seq_length: unknown key. Did you mean data.max_length?"]),
        ({"seed": 1}, ["seed: unknown key. Did you mean 'seeds'?"]),
        ({"finetune": {"epoch": 1}}, ["finetune.epoch", "Did you mean 'epochs'?"]),
        (
            {"objective": {"soft": {"loss": "forward_kl", "temprature": 2}}},
            ["objective.soft.temprature", "Did you mean 'temperature'?"],
        ),
        (
            {"objective": {"soft": {"loss": "forward_kl", "weight": {"strat": 2}}}},
            ["objective.soft.weight.strat", "Did you mean 'start'?"],
        ),
    ],
)
def test_unknown_keys_name_the_nearest(sections, expected):
    message = fault_of(values_of(**sections))
    assert all(part in message for part in expected)


def test_every_unknown_key_is_listed():
    message = fault_of(values_of(tain={}, train={"epoch": 1}))
    assert "tain" in message
    assert "train.epoch" in message


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"train": {"learning_rate": "abc"}}, "train.learning_rate: got 'abc', expected a number"),
        ({"train": {"batch_size": 2.5}}, "train.batch_size: got 2.5, expected a whole number"),
        ({"train": {"batch_size": True}}, "train.batch_size: got True"),
        ({"train": {"remat": "maybe"}}, "train.remat: got 'maybe', expected true or false"),
        ({"train": 5}, "train: got 5, expected a section with keys"),
        ({"seeds": 3}, "seeds: got 3, expected a list such as [a, b]"),
        ({"teacher": {"model": 3}}, "teacher.model: got 3, expected text or a section with keys"),
        (
            {"student": {"layers": "abc"}},
            "student.layers: got 'abc', expected a list such as [a, b] or a whole number",
        ),
        ({"train": {"optimizer": "adamm"}}, "Did you mean 'adam'?"),
        ({"data": {"source": "digits", "layout": "packed"}}, "Did you mean 'pack'?"),
        (
            {"objective": {"soft": {"loss": "forward_kl", "weight": {"start": 1}}}},
            "objective.soft.weight.end: got nothing, expected a value",
        ),
        ({"objective": {"soft": {}}}, "objective.soft.loss: got nothing, expected a value"),
    ],
)
def test_wrong_types_are_named(sections, expected):
    message = fault_of(values_of(**sections))
    assert expected in message
    assert "Input should" not in message


def test_of_a_union_only_the_member_that_was_meant_complains():
    message = fault_of(values_of(student={"layers": [0, -1]}))
    assert message == "student.layers.1: got -1, expected a number greater than or equal to 0"
    message = fault_of(values_of(objective={"soft": {"loss": "jsd", "weight": {"start": 1}}}))
    assert message == "objective.soft.weight.end: got nothing, expected a value"


def test_several_faults_in_one_error():
    message = fault_of(values_of(train={"epochs": 0, "keep": "first"}, seeds="x"))
    assert all(name in message for name in ("train.epochs", "train.keep", "seeds"))
