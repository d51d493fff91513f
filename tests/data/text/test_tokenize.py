"""Tokens: the tokenizer's own, ragged, counted where cut, and made only once."""

import json
import logging

import numpy as np
import pytest

from jaxdistill.data.text import tokenize as module
from jaxdistill.data.text.tokenize import cache_key, check_row_limits, tokenize
from jaxdistill.errors import DataError

TEXTS = ["good film", "bad", "a b one two three good", ""]
PAIRS = ["one", "two three", "b", "a a a a a a a a"]


def rows(tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]


def test_rows_are_those_of_the_tokenizer(tokenizer_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    options = {"folder": tokenizer_folder, "max_length": 6, "cache_dir": None}
    single = tokenize(TEXTS, None, **options)
    assert rows(single) == tokenizer(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert (single.cut, single.pad_id) == (1, 0)
    assert not single.types.any()
    assert (single.ids.dtype, single.types.dtype) == (np.int32, np.uint8)
    pair = tokenize(TEXTS, PAIRS, **options)
    expected = tokenizer(TEXTS, PAIRS, truncation=True, max_length=6, return_token_type_ids=True)
    assert rows(pair) == expected["input_ids"]
    assert pair.types.tolist() == [t for row in expected["token_type_ids"] for t in row]
    assert pair.cut == 2


def test_chunks_join(tokenizer_folder, monkeypatch):
    options = {"folder": tokenizer_folder, "max_length": 6, "cache_dir": None}
    whole = tokenize(TEXTS, PAIRS, **options)
    monkeypatch.setattr(module, "_CHUNK", 3)
    parts = tokenize(TEXTS, PAIRS, **options)
    assert rows(parts) == rows(whole)
    assert (parts.types.tolist(), parts.cut) == (whole.types.tolist(), whole.cut)


def test_tokens_are_made_once_and_again_when_anything_changes(
    tokenizer_folder, tmp_path, monkeypatch
):
    made = []
    real = module._tokenize
    monkeypatch.setattr(module, "_tokenize", lambda *a, **k: made.append(1) or real(*a, **k))

    def run(texts=TEXTS, pairs=None, max_length=6):
        before = len(made)
        tokens = tokenize(
            texts, pairs, folder=tokenizer_folder, max_length=max_length, cache_dir=tmp_path / "c"
        )
        return len(made) - before, tokens

    count, first = run()
    assert count == 1
    count, again = run()
    assert count == 0
    for name in ("ids", "types", "offsets", "pad_id", "cut"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert run(texts=[*TEXTS[:-1], "film"])[0] == 1
    assert run(pairs=PAIRS)[0] == 1
    assert run(max_length=5)[0] == 1
    assert run()[0] == 0
    settings = tokenizer_folder / "tokenizer.json"
    changed = json.loads(settings.read_text())
    changed["model"]["vocab"]["film"] = 11
    changed["model"]["vocab"]["three"] = 8
    settings.write_text(json.dumps(changed))
    count, other = run()
    assert count == 1
    assert rows(other) != rows(first)
    assert not list((tmp_path / "c").glob("*.tmp"))


def test_texts_that_join_to_the_same_have_other_keys(tokenizer_folder):
    keys = {
        cache_key(texts, pairs, folder=tokenizer_folder, max_length=6)
        for texts, pairs in [
            (["ab"], None),
            (["a", "b"], None),
            (["a"], ["b"]),
            (["", "ab"], None),
            (["1:a"], None),
        ]
    }
    assert len(keys) == 5


@pytest.mark.slow
def test_a_key_is_the_same_in_another_process(tokenizer_folder):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from jaxdistill.data.text.tokenize import cache_key;"
        "print(cache_key(['a', 'b'], None, folder=Path(sys.argv[1]), max_length=6))"
    )
    command = [sys.executable, "-c", code, str(tokenizer_folder)]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert other == cache_key(["a", "b"], None, folder=tokenizer_folder, max_length=6)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_cache_is_said_and_made_again(tokenizer_folder, tmp_path, caplog, damage):
    options = {"folder": tokenizer_folder, "max_length": 6, "cache_dir": tmp_path / "c"}
    first = tokenize(TEXTS, None, **options)
    (file,) = (tmp_path / "c").iterdir()
    file.write_bytes(file.read_bytes()[:-7] if damage is None else damage)
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        again = tokenize(TEXTS, None, **options)
    assert "damaged" in caplog.text
    assert rows(again) == rows(first)
    caplog.clear()
    assert rows(tokenize(TEXTS, None, **options)) == rows(first)
    assert not caplog.text


def test_what_cannot_tokenize_is_explained(tokenizer_folder, tmp_path):
    options = {"max_length": 6, "cache_dir": None}
    with pytest.raises(DataError, match=r"tokenizer: no such folder .*nowhere"):
        tokenize(TEXTS, None, folder=tmp_path / "nowhere", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none can be loaded from .*empty: .*tokenizer\.json"):
        tokenize(TEXTS, None, folder=tmp_path / "empty", **options)
    with pytest.raises(DataError, match="max_length: got 2, expected more than the tokenizer's 2"):
        tokenize(TEXTS, None, folder=tokenizer_folder, max_length=2, cache_dir=None)
    with pytest.raises(DataError, match=r"rows of 6 tokens, expected at most 4, .* of the other"):
        check_row_limits(6, {"one": 5, "other": 4, "long": 8})
    check_row_limits(4, {"one": 5, "other": 4})
