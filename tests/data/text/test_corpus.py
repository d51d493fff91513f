"""Documents to tokens: what begins and ends them, the bytes they stand for, what is learned."""

import json

import numpy as np
import pytest

from jaxdistill.data.reading.chat import chat_of
from jaxdistill.data.reading.documents import Documents
from jaxdistill.data.text import corpus as module
from jaxdistill.data.text.bpe import END, trained_tokenizer
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.errors import DataError

TEXTS = ["def one(): return 1\n", "naïve façade — 日本語 🙂🙂 done", "\n\n  indented   text \n"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained_tokenizer(TEXTS * 3, vocabulary=270, folder=tmp_path_factory.mktemp("tokens"))


@pytest.fixture
def chat_folder(folder, tmp_path):
    target = tmp_path / "chat"
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(target)
    return target


def test_a_trained_tokenizer_is_a_plain_folder_and_made_once(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 270
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == END
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    stamp = (folder / "tokenizer.json").stat().st_mtime_ns
    assert trained_tokenizer(TEXTS * 3, vocabulary=270, folder=folder.parent) == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == stamp
    assert trained_tokenizer(TEXTS * 3, vocabulary=271, folder=folder.parent) != folder
    with pytest.raises(DataError, match=r"vocabulary: got 9999, expected at most \d+"):
        trained_tokenizer(TEXTS, vocabulary=9999, folder=folder.parent)


def test_texts_begin_and_end_and_every_byte_belongs_to_a_token(folder):
    found = tokenize_documents(Documents(TEXTS, False, "here"), folder=folder, cache_dir=None)
    tokenizer = load_tokenizer(folder)
    for number, text in enumerate(TEXTS):
        own = slice(found.offsets[number], found.offsets[number + 1])
        end = tokenizer.eos_token_id
        assert found.ids[own].tolist() == [end, *tokenizer(text)["input_ids"], end]
        assert found.learned[own].tolist() == [False] + [True] * (len(found.ids[own]) - 1)
        assert found.sizes[own].sum() == len(text.encode())
        assert (found.sizes[own] >= 0).all()
    ascii_only = slice(found.offsets[0] + 1, found.offsets[1] - 1)
    widths = [len(tokenizer.decode([token])) for token in found.ids[ascii_only]]
    assert found.sizes[ascii_only].tolist() == widths


def test_tokens_are_kept_and_read_again(folder, tmp_path, monkeypatch):
    documents = Documents(TEXTS, False, "here")
    one = tokenize_documents(documents, folder=folder, cache_dir=tmp_path)
    monkeypatch.setattr(module, "load_tokenizer", lambda folder: pytest.fail("tokenized again"))
    again = tokenize_documents(documents, folder=folder, cache_dir=tmp_path)
    for name in ("ids", "learned", "sizes", "offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert getattr(one, name).dtype == getattr(again, name).dtype


def test_only_what_the_assistant_says_is_learned(chat_folder):
    chat = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one or two?"},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "and text?"},
        {"role": "assistant", "content": "def"},
    ]
    silent = chat[:2]
    documents = Documents([chat_of(chat), chat_of(silent)], True, "here")
    found = tokenize_documents(documents, folder=chat_folder, cache_dir=chat_folder)
    tokenizer = load_tokenizer(chat_folder)
    assert found.silent == 1
    assert len(found.offsets) == 2
    said = tokenizer.decode(found.ids[found.learned])
    # The end of a turn is learned: without it, generation would not stop.
    assert said == "done<|endoftext|>\ndef<|endoftext|>\n"
    assert tokenizer.decode(found.ids).startswith("<system>be short")
    again = tokenize_documents(documents, folder=chat_folder, cache_dir=chat_folder)
    np.testing.assert_array_equal(found.learned, again.learned)
    assert again.silent == 1


def test_a_chat_may_begin_with_the_assistant(chat_folder):
    chat = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
    found = tokenize_documents(
        Documents([chat_of(chat)], True, "x"), folder=chat_folder, cache_dir=None
    )
    said = load_tokenizer(chat_folder).decode(found.ids[found.learned])
    assert said == "one<|endoftext|>\n"


def test_chats_that_cannot_be_learned_from_are_refused(folder, chat_folder):
    silent = [{"role": "user", "content": "one"}]
    with pytest.raises(DataError, match="2 chats, expected a turn with the role 'assistant'"):
        tokenize_documents(
            Documents([chat_of(silent)] * 2, True, "here"), folder=chat_folder, cache_dir=None
        )
    with pytest.raises(DataError, match="no chat template"):
        tokenize_documents(
            Documents([chat_of(silent)], True, "here"), folder=folder, cache_dir=None
        )
    settings = json.loads((chat_folder / "tokenizer_config.json").read_text())
    (chat_folder / "chat_template.jinja").unlink(missing_ok=True)
    unstable = "{{ messages | length }}" + TEMPLATE
    (chat_folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": unstable})
    )
    chat = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    found = tokenize_documents(
        Documents([chat_of(chat)], True, "x"), folder=chat_folder, cache_dir=None
    )
    # Read as it is when the answer is given: this template counts the messages.
    assert load_tokenizer(chat_folder).decode(found.ids).startswith("1<assistant>a")
    assert found.faults["split"] == 1
