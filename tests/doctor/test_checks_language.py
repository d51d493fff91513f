"""Faults of chats, and whether what ends a text is learned."""

import dataclasses
import json

import numpy as np
import pytest
from support.chats import chat_tokenizer
from support.findings import only
from support.setups import text_dataset

from jaxdistill.doctor import checks_language

TEXT, TURN, PLAIN = 4, 3, 200


@pytest.fixture
def talking(healthy, tmp_path):
    """Make a set-up of a tokenizer, ends that its teacher names, learned tokens and notes."""

    def make(ends=None, learned=(PLAIN, TEXT), eos="<eos>", **notes):
        folder = tmp_path / "model"
        chat_tokenizer("chatml", eos_token=eos).save_pretrained(folder)
        if ends is not None:
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        dataset = text_dataset(**{name.replace("__", "."): count for name, count in notes.items()})
        labels = np.array([[-1, *learned]], np.int32)
        train = dataclasses.replace(dataset.train, labels=labels)
        dataset = dataclasses.replace(dataset, train=train, tokenizer=folder)
        config = {"task": "language_model", "teacher": {"model": str(folder)}}
        return healthy(config, dataset=dataset)

    return make


@pytest.mark.parametrize(
    ("ends", "learned", "level", "message"),
    [
        (None, (PLAIN, TEXT), "ok", r"the tokens \[4\] end a text"),
        ([TEXT, TURN], (PLAIN, TURN), "ok", r"the tokens \[3\] end a text"),
        (None, (PLAIN, TURN), "warning", r"none of the tokens .*\(\[4\]\) is learned"),
        (PLAIN, (TEXT,), "warning", r"ends at the token 200 \(.*\), which is an ordinary one"),
    ],
)
def test_ends_are_special_and_learned(talking, ends, learned, level, message):
    import re

    first, *_ = checks_language.ends(talking(ends, learned))
    assert first.level == level
    assert re.search(message, first.message)


def test_a_tokenizer_that_ends_nothing_is_told(talking):
    (found,) = checks_language.ends(talking(eos=None))
    assert found.level == "warning"
    assert "goes on to max_new_tokens" in found.message


@pytest.mark.parametrize("name", ["tools", "messages", "reasoning", "empty", "unprompted"])
def test_what_a_template_loses_is_a_warning_for_each_split(talking, name):
    notes = {f"train__chats__{name}": 3, f"validation__chats__{name}": 0}
    (found,) = checks_language.chats(talking(**notes))
    assert found.level == "warning"
    assert found.message.startswith("3 of 64 chats of train have ")


def test_chats_read_answer_by_answer_are_told(talking):
    (found,) = checks_language.chats(talking(train__chats__split=5))
    assert found.level == "ok"
    assert "5 of 64 are read once for each answer" in found.message
    assert not list(checks_language.chats(talking()))


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_teacher_that_says_no_numbers(healthy, metric, value):
    scores = np.array([[1.0, 1, 3, 3], [value, 0, 0, 0]], np.float32)
    setup = healthy(
        {"task": "language_model", "metric": metric},
        dataset=text_dataset(),
        teacher_logits=scores,
        teacher_labels=np.array([[2, 8], [2, 8]]),
    )
    message = only(checks_language.teacher_skill(setup), "fatal")
    assert f"the teacher says {value} in 1 of 2 rows" in message
