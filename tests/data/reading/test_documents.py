"""Documents of a language model: where they are read from, and what is left out."""

import json

import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.documents import read_documents
from jaxdistill.errors import DataError

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def write_lines(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_text_file_is_one_document_whose_end_is_held_out(tmp_path):
    text = "".join(f"line {i} stays whole\n" for i in range(100))
    (tmp_path / "corpus.txt").write_text(text)
    found = read_documents(DataConfig(train=str(tmp_path / "corpus.txt"), validation_fraction=0.1))
    (first,), (last,) = found["train"].items, found["validation"].items
    assert first + last == text
    assert first.endswith("\n")
    assert 0.05 < len(last) / len(text) < 0.15


def test_a_folder_holds_a_document_in_each_file(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.py").write_text(f"x = {number}\n")
    (tmp_path / "empty.py").write_text(" \n")
    config = DataConfig(train=str(tmp_path), validation_fraction=0.25)
    one, again = read_documents(config), read_documents(config)
    assert one["train"].empty == 1
    assert len(one["train"]) == 15
    assert {*one["train"].items} | {*one["validation"].items} == {f"x = {i}\n" for i in range(20)}
    assert one == again
    other = read_documents(config.model_copy(update={"split_seed": 1}))
    assert other["validation"].items != one["validation"].items


def test_rows_of_json_hold_texts_as_they_are_and_the_empty_ones_are_counted(tmp_path):
    rows = [{"text": " kept \n"}, {"text": ""}, {"text": None}, {"text": "  "}, {"text": "two"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    config = DataConfig(train=path, validation=path, train_examples=1)
    found = read_documents(config)
    assert found["validation"].items == [" kept \n", "two"]
    assert found["validation"].empty == 3
    assert len(found["train"]) == 1


def test_chats_are_found_by_their_column(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"messages": CHAT}, {"messages": []}])
    found = read_documents(DataConfig(train=path, validation=path))
    assert found["train"].chats
    assert [chat.messages for chat in found["train"].items] == [CHAT]
    assert found["train"].empty == 1


@pytest.mark.parametrize(
    ("row", "learned"),
    [
        ({"messages": None, "text": "a b"}, "a b"),
        ({"conversations": None, "text": "a b"}, "a b"),
        ({"messages": None, "prompt": "a", "completion": " b"}, ("a", " b")),
    ],
)
def test_a_column_of_chats_without_any_is_passed_over(row, learned, tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [row] * 2)
    found = read_documents(DataConfig(train=path, validation=path))["train"]
    assert not found.chats
    assert list(found.items) == [learned] * 2


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([{"text": 3}], {}, r"line 1: got text='3', expected text"),
        ([{"text": ""}], {}, "no documents with anything in them"),
        ([{"words": "x"}], {}, r"columns \['words'\], expected `text` or `messages`"),
        ([{"text": "x"}], {"text": "tekst"}, "no column 'tekst'.*Did you mean 'text'"),
        ([{"messages": [{"role": "user"}]}], {}, "expected a role and a content"),
        ([{"messages": "hello"}], {}, "expected a list of messages"),
    ],
)
def test_what_is_no_document_is_named(tmp_path, rows, fields, message):
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=message):
        read_documents(DataConfig(train=path, validation=path, **fields))


def test_a_hugging_face_data_set_is_read_whole_or_as_far_as_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_lines(folder / "train.jsonl", [{"text": f"document {i}"} for i in range(50)])
    whole = read_documents(DataConfig(source=str(folder)))
    assert len(whole["train"]) + len(whole["validation"]) == 50
    part = read_documents(DataConfig(source=str(folder), streaming=True, train_examples=20))
    assert len(part["train"]) == 20
    assert {*part["train"].items, *part["validation"].items} == {f"document {i}" for i in range(25)}
    with pytest.raises(DataError, match=r"data.train_examples: got nothing with data.streaming"):
        read_documents(DataConfig(source=str(folder), streaming=True))


@pytest.mark.slow
def test_the_standard_library_is_at_hand():
    found = read_documents(DataConfig(source="stdlib", validation_fraction=0.1))
    assert len(found["train"]) > 100
    assert any("def dumps(" in text for part in found.values() for text in part.items)
