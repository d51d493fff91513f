"""Texts a teacher writes to a file: their content, and what a kill leaves of them."""

import json

import jax
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import CheckpointError, ConfigError, DataError, Preempted
from jaxdistill.generation.decode import generate
from jaxdistill.generation.teacher_texts import write_texts
from jaxdistill.models.registry import build_model
from jaxdistill.runtime import preemption

PROMPTS = [np.arange(5, 5 + length) for length in (3, 1, 4, 2, 6, 2, 5)]
ENDS = list(range(20))
SETTINGS = {"max_new_tokens": 6, "temperature": 1.2, "seed": 3, "batch_size": 3, "eos_id": ENDS}


@pytest.fixture(scope="module")
def model():
    return build_model(
        parity.spec("gpt2", n_positions=80, initializer_range=0.3, tie_word_embeddings=False)
    )


def keep(index, tokens):
    return {"number": index, "tokens": tokens, "text": "ä\n\u2028"}


def write(model, path, **changes):
    settings = {**SETTINGS, "line": keep, "identity": {"teacher": "a"}} | changes
    return write_texts(model, settings.pop("prompts", PROMPTS), path, **settings)


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "deeper" / "texts.jsonl"
    return path, write(model, path)


@pytest.mark.slow
def test_a_line_per_prompt_holds_what_generate_writes(model, whole):
    path, summary = whole
    found = rows(path)
    assert [row["number"] for row in found] == list(range(7))
    assert {row["text"] for row in found} == {"ä\n\u2028"}
    lengths = set()
    for start in range(0, 7, 3):
        batch = [*PROMPTS[start : start + 3], PROMPTS[-1], PROMPTS[-1]][:3]
        ids, mask = np.zeros((2, 3, 6), np.int32)
        for row, prompt in enumerate(batch):
            ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
        rng = jax.random.fold_in(jax.random.key(3), start // 3)
        written = generate(
            model, ids, mask, max_new_tokens=6, temperature=1.2, rng=rng, eos_id=ENDS
        )
        for row, kept in enumerate(found[start : start + 3]):
            expected = np.asarray(written.tokens)[row, : written.lengths[row]].tolist()
            ended = expected[-1] in ENDS
            assert kept["tokens"] == (expected[:-1] if ended else expected)
            lengths.add((len(expected), ended))
    assert len(lengths) > 1
    assert summary["texts"] == summary["new_texts"] == 7
    assert summary["new_tokens"] >= sum(len(row["tokens"]) for row in found)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "texts.jsonl",
        "texts.jsonl.settings.json",
    ]


def test_a_finished_file_is_kept(model, whole):
    path, _ = whole
    before = path.stat().st_mtime_ns
    assert write(model, path)["new_texts"] == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_whoever_stops_anywhere_goes_on_to_the_same_file(model, whole, tmp_path, monkeypatch, cut):
    path = tmp_path / "texts.jsonl"
    calls = []
    monkeypatch.setattr(preemption, "requested", lambda: calls.append(1) or len(calls) == 3)
    with pytest.raises(Preempted, match="after 6 of 7 texts"):
        write(model, path)
    part = path.with_name("texts.jsonl.part")
    content = part.read_bytes()
    assert content.count(b"\n") == 6
    part.write_bytes(content[: len(content) + cut if cut < 0 else cut or len(content)])
    seen = []
    write(model, path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == whole[0].read_bytes()
    assert seen[-1] == (7, 7)
    assert len(seen) == {0: 1, 1: 3, 40: 3, -1: 2}[cut]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_settings_that_are_damaged_are_named(model, whole, tmp_path, content):
    path, marker = tmp_path / "texts.jsonl", tmp_path / "texts.jsonl.settings.json"
    path.write_bytes(whole[0].read_bytes())
    marker.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"texts\.jsonl\.settings\.json: got .*--force"):
        write(model, path)
    assert write(model, path, force=True)["new_texts"] == 7
    assert path.read_bytes() == whole[0].read_bytes()


def test_another_way_of_making_it_is_refused(model, whole, tmp_path):
    path = tmp_path / "texts.jsonl"
    for end in ("", ".settings.json"):
        path.with_name(path.name + end).write_bytes(
            whole[0].with_name(path.name + end).read_bytes()
        )
    with pytest.raises(ConfigError, match=r"other settings \(seed: 3 -> 4\).*--force"):
        write(model, path, seed=4)
    with pytest.raises(ConfigError, match=r"identity.teacher: 'a' -> 'b'"):
        write(model, path, identity={"teacher": "b"})
    write(model, path, seed=4, force=True)
    assert path.read_bytes() != whole[0].read_bytes()
    foreign = tmp_path / "mine.jsonl"
    foreign.write_text("mine\n")
    with pytest.raises(ConfigError, match="does not say how"):
        write(model, foreign)
    assert foreign.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompts": []}, DataError, "prompts: got none"),
        (
            {"prompts": [PROMPTS[0], np.array([], np.int32)]},
            DataError,
            "got 1 empty ones, the first is number 1",
        ),
        ({"batch_size": 0}, ConfigError, "batch_size: got 0"),
    ],
)
def test_mistakes_are_named(model, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        write(model, tmp_path / "texts.jsonl", **changes)
    assert not list(tmp_path.iterdir())
