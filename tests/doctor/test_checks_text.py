"""Tokenizers, vocabularies, lengths and token types: every planted fault is found."""

import dataclasses

import numpy as np
import pytest
from support.findings import only, with_part
from support.setups import WORDS, encoder, save_tokenizer, text_dataset

from jaxdistill.doctor import checks_text


def _folders(tmp_path, student_words, **options):
    return {
        "teacher": {"model": save_tokenizer(tmp_path / "teacher", WORDS)},
        "student": {"model": save_tokenizer(tmp_path / "student", student_words, **options)},
    }


def test_tokenizers_that_agree(healthy, tmp_path):
    setup = healthy(_folders(tmp_path, WORDS))
    assert "12 tokens" in only(checks_text.tokenizers(setup), "ok")


def test_tokenizer_with_other_ids(healthy, tmp_path):
    swapped = [*WORDS[:4], "b", "a", *WORDS[6:-1]]
    message = only(checks_text.tokenizers(healthy(_folders(tmp_path, swapped))), "fatal")
    assert message.startswith("3 of 12 tokens have another id")
    assert "student.layers" in message


def test_tokenizer_that_lower_cases(healthy, tmp_path):
    words = [*WORDS, "Good"]
    dataset = with_part(text_dataset(), "validation", texts=(["Good film", "a film", "Good"],))
    sections = _folders(tmp_path, words, lowercase=True)
    save_tokenizer(tmp_path / "teacher", words)
    message = only(checks_text.tokenizers(healthy(sections, dataset=dataset)), "fatal")
    assert "cuts 2 of 3 texts into other tokens (e.g. 'Good film'" in message


def test_tokenizer_that_is_missing(healthy, tmp_path):
    sections = _folders(tmp_path, WORDS)
    (tmp_path / "student" / "tokenizer.json").unlink()
    assert "cannot be compared" in only(checks_text.tokenizers(healthy(sections)), "warning")


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_vocabulary_too_small(healthy, who):
    small = encoder(1, vocab_size=len(WORDS) - 1)
    message = only(checks_text.vocabulary(healthy(**{who: small})), "fatal")
    assert f"the {who} has 11 embeddings" in message
    assert "at least 12" in message


def test_words_of_the_tokenizer_without_an_embedding(healthy, tmp_path):
    # Added tokens that no text of the data has, and for which nobody resized the model.
    sections = _folders(tmp_path, [*WORDS, "<tool>", "<think>"])
    sections["teacher"] = sections["student"]
    message = only(checks_text.vocabulary(healthy(sections)), "warning")
    assert message.startswith("2 of 14 tokens of the tokenizer have no embedding in the teacher")
    assert "'<tool>'" in message
    assert "resize_token_embeddings" in message
    grown = encoder(2, vocab_size=14)
    only(checks_text.vocabulary(healthy(sections, teacher=grown, student=grown)), "ok")


def test_positions_too_few(healthy):
    small = encoder(1, max_position_embeddings=15)
    message = only(checks_text.lengths(healthy(student=small)), "fatal")
    assert "the student has 15 positions; set data.max_length=15" in message


def test_positions_of_roberta_start_after_the_padding(healthy):
    model = encoder(1, family="roberta", max_position_embeddings=17, pad_token_id=1)
    assert model.sizes.positions == 15
    assert "has 15 positions" in only(checks_text.lengths(healthy(teacher=model)), "fatal")


def test_rows_that_are_cut(healthy):
    cut = text_dataset(**{"train.cut": 32})
    message = only(checks_text.lengths(healthy(dataset=cut)), "warning")
    assert "32 of 64 rows of train (50.0 %) are cut to 16 tokens" in message
    assert "raise data.max_length (up to 32)" in message
    full = healthy({"data": {"train": "x", "max_length": 32}}, dataset=cut)
    assert "no more positions" in only(checks_text.lengths(full), "warning")


def test_token_types(healthy):
    pairs = text_dataset(pairs=True)
    assert "2 token type(s)" in only(checks_text.token_types(healthy(dataset=pairs)), "ok")
    assert not list(checks_text.token_types(healthy()))

    untyped = encoder(1, type_vocab_size=1)
    message = only(checks_text.token_types(healthy(dataset=pairs, student=untyped)), "fatal")
    assert "the student knows 1" in message
    assert "type_vocab_size=2" in message

    without = dataclasses.replace(untyped, config=None)
    message = only(checks_text.token_types(healthy(dataset=pairs, student=without)), "warning")
    assert "separators" in message


def test_a_teacher_fed_without_its_token_types(healthy):
    pairs = text_dataset(pairs=True)
    for part in ("train", "validation"):
        types = np.zeros_like(getattr(pairs, part).inputs.token_types)
        pairs = with_part(pairs, part, token_types=types)
    findings = list(checks_text.token_types(healthy(dataset=pairs)))
    assert [finding.level for finding in findings] == ["warning", "warning"]
    assert "the teacher has 2 token types, but the tokenizer marks both" in findings[0].message
