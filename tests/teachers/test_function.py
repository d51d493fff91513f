"""What a function says of texts stands where they stand in the split, and faults are named."""

import numpy as np
import pytest
from support.setups import text_split

from jaxdistill.config import teacher_functions
from jaxdistill.config.base import Section
from jaxdistill.config.load import check
from jaxdistill.errors import DataError, Preempted
from jaxdistill.runtime import preemption
from jaxdistill.teachers.function import speak

ROWS = 70  # Texts of 3 to 8 tokens, in batches of 16 of two lengths: some rows only fill.


class Options(Section):
    factor: float = 1.0


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(teacher_functions, "_REGISTERED", {})


def said(function, outputs=2, **options):
    """Return what a function of that name says of the texts."""
    teacher_functions.register_teacher("mine", function, Options)
    models = {"student": {"model": {"family": "bert"}}, "finetune": None}
    config = check(
        {
            "data": {"train": "unread", "eval_batch_size": 16, "buckets": 2},
            "teacher": {"function": {"name": "mine", **options}},
            **models,
        }
    )
    return speak(config, text_split(ROWS, 0), outputs)


def counted(examples, *, factor):
    """The sum of an example's tokens, and how many they are."""
    assert set(examples) == {"input_ids", "attention_mask", "token_type_ids"}
    mask = examples["attention_mask"]
    return factor * np.stack([(examples["input_ids"] * mask).sum(1), mask.sum(1)], 1)


@pytest.mark.parametrize("outputs", [2, None])
def test_every_text_has_what_was_said_of_it(outputs):
    split = text_split(ROWS, 0)
    sums = np.add.reduceat(split.inputs.tokens, split.inputs.offsets[:-1])
    expected = np.stack([sums, split.lengths], 1)
    found = said(counted, outputs)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(said(counted, outputs, factor=0.5), expected / 2)


@pytest.mark.parametrize("outputs", [2, None])
def test_a_function_is_asked_for_each_text_once(outputs):
    asked = []

    def noted(examples, *, factor):
        asked.append(len(examples["input_ids"]))
        return counted(examples, factor=factor)

    said(noted, outputs)
    assert sum(asked) == ROWS
    assert min(asked) < 16 == max(asked)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda logits: logits[:, :1], r"'mine' returned \[16, 1\], expected \[16, 2\]"),
        (lambda logits: logits[:, 0], r"'mine' returned \[16\], expected \[16, 2\]"),
        (lambda logits: logits[1:], r"'mine' returned \[15, 2\], expected \[16, 2\]"),
        (lambda logits: logits / 0.0, r"'mine' returned numbers that are not finite"),
        (lambda logits: logits * np.nan, r"'mine' returned numbers that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_no_logit_of_each_class_for_each_text_is_refused(spoil, message):
    with pytest.raises(DataError, match=message):
        said(lambda examples, factor: spoil(counted(examples, factor=factor)))


def test_as_many_classes_for_all_texts_where_none_are_known():
    """The first texts are of one length, and have as many columns; others have more."""

    def by_length(examples, *, factor):
        return np.zeros((len(examples["input_ids"]), examples["input_ids"].shape[1]))

    with pytest.raises(DataError, match=r"'mine' returned \[\d+, 8\], expected \[\d+, \d\]"):
        said(by_length, None)


def test_a_function_is_stopped_between_two_batches(monkeypatch):
    asked = []
    monkeypatch.setattr(preemption, "requested", lambda: len(asked) == 2)

    def noted(examples, *, factor):
        asked.append(0)
        return counted(examples, factor=factor)

    with pytest.raises(Preempted, match=r"stopped while teacher\.function ran"):
        said(noted)
    assert len(asked) == 2
