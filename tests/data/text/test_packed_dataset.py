"""A configuration to packed rows: what is counted, what is found again, what is refused."""

import json

import pytest

from jaxdistill.config.schema import DataConfig, TokenizerConfig
from jaxdistill.data.text.bpe import trained_tokenizer
from jaxdistill.data.text.packed_dataset import prepare_language
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.errors import DataError

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_texts(path, count=40) -> str:
    rows = [{"text": f"line {i % 30} of {'many ' * (i % 30 % 7)}words"} for i in range(count)]
    rows += [{"text": ""}, {"text": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(config, folder, *, own=None, **positions):
    return prepare_language(config, tokenizer_folder=own, positions=positions, folder=folder)


def test_texts_are_counted_packed_and_found_again(tmp_path):
    config = DataConfig(
        train=write_texts(tmp_path / "a.jsonl"),
        max_length=16,
        tokenizer=TokenizerConfig(vocabulary=270),
    )
    one, again = prepare(config, tmp_path / "work"), prepare(config, tmp_path / "work")
    assert one.fingerprint == again.fingerprint
    assert one.vocabulary == 270
    assert one.tokenizer is not None
    assert one.tokenizer.parent == tmp_path / "work"
    assert one.notes["train.empty"] == 2
    assert one.notes["train.rows"] + one.notes["validation.rows"] == 40
    assert one.notes["train.repeated"] > 0
    for part, split in (("train", one.train), ("validation", one.validation)):
        assert split.truth[:, 1].sum() == one.notes[f"{part}.bytes"]
        assert split.truth[:, 0].sum() == (split.labels >= 0).sum()
    shorter = prepare(config.model_copy(update={"max_length": 8}), tmp_path / "work")
    assert shorter.fingerprint != one.fingerprint
    assert shorter.notes["train.bytes"] == one.notes["train.bytes"]


def test_chats_are_read_with_the_models_own_template(tmp_path):
    texts = ["user asks one question", "assistant answers one question"] * 9
    tokenizer = load_tokenizer(trained_tokenizer(texts, vocabulary=270, folder=tmp_path))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "own")
    asked = {"role": "user", "content": "one question"}
    chats = [[asked, {"role": "assistant", "content": f"answers {i}"}] for i in range(20)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in [*chats, [asked]]))
    config = DataConfig(train=str(path), validation=str(path), max_length=64)
    found = prepare(config, tmp_path / "work", own=tmp_path / "own")
    assert found.notes["train.silent"] == 1
    split = found.train
    said = tokenizer.decode(split.labels[split.labels >= 0])
    assert sorted(said.split("<|endoftext|>")[:-1]) == sorted(f"answers {i}" for i in range(20))
    assert "<user>one question<|endoftext|><assistant>" in tokenizer.decode(split.inputs.tokens)
    trains = config.model_copy(update={"tokenizer": TokenizerConfig(vocabulary=270)})
    with pytest.raises(DataError, match="got one to train on chats, expected a folder"):
        prepare(trains, tmp_path / "work")


@pytest.mark.parametrize(
    ("fields", "positions", "message"),
    [
        ({"max_length": 1}, {}, "got 1, expected at least 2 tokens"),
        ({}, {"teacher": 64}, "rows of 128 tokens, expected at most 64, the positions of the"),
        ({}, {}, "got text and no tokenizer to read it"),
        ({"tokenizer": "no/such/folder"}, {}, "no such folder no/such/folder"),
    ],
)
def test_what_cannot_be_prepared_is_refused(tmp_path, fields, positions, message):
    config = DataConfig(train=write_texts(tmp_path / "a.jsonl"), **fields)
    with pytest.raises(DataError, match=message):
        prepare(config, tmp_path / "work", **positions)


def test_answers_are_learned_as_turns_or_behind_their_prompts(tmp_path):
    rows = [{"question": f"What is {i} plus one?", "answer": f"It is {i + 1}."} for i in range(30)]
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({**row, "why": "so it is " + row["answer"]}) + "\n" for row in rows)
    )
    trained = TokenizerConfig(vocabulary=262)
    with pytest.raises(DataError, match=r"got one to train on chats, .*data\.prompt and"):
        prepare(DataConfig(train=str(path), tokenizer=trained), tmp_path)
    joined = DataConfig(
        train=str(path), tokenizer=trained, prompt="question", completion="answer", max_length=64
    )
    found = prepare(joined, tmp_path)
    assert found.tokenizer is not None
    tokenizer = load_tokenizer(found.tokenizer)
    learned = tokenizer.decode(found.train.labels[found.train.labels >= 0])
    assert learned.count("It is") == found.notes["train.rows"] == 24
    assert "What" not in learned
    (remark,) = found.remarks
    assert "the texts in why are not read, only question, answer" in remark.message
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "own")
    config = DataConfig(train=str(path), max_length=64)
    chats = prepare(config, tmp_path, own=tmp_path / "own")
    assert tokenizer.decode(chats.train.labels[chats.train.labels >= 0]) == learned
