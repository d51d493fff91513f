"""Texts of a teacher, written to a file that is read as data; those of a student, in its run."""

import json
import shutil
from typing import Any

import numpy as np
import pytest

from jaxdistill.cli import app as cli
from jaxdistill.config.generation import OnPolicyConfig
from jaxdistill.config.load import check, dump
from jaxdistill.data.reading.chat import chat_of
from jaxdistill.data.reading.documents import Documents, read_documents
from jaxdistill.data.text.bpe import trained_tokenizer
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.distill import models as build
from jaxdistill.distill import stages, texts_stage
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.generation.decode import generate
from jaxdistill.models.registry import build_model, load_model, save_model

LENGTH = 16
GPT2 = {
    "family": "gpt2",
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 290,
    "n_positions": LENGTH,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with texts, and one with a teacher whose head is padded beyond its tokenizer."""
    root = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdef"), count)) for count in range(12, 40)]
    (root / "data").mkdir()
    for number, text in enumerate(texts):
        (root / "data" / f"{number:02d}.txt").write_text(text)
    tokenizer = trained_tokenizer(texts, vocabulary=260, folder=root)
    save_model(root / "teacher", build_model(GPT2, seed=1), tokenizer_from=tokenizer)
    return root


def config(made, **sections: Any):
    return check(
        {
            "task": "language_model",
            "seeds": [0],
            "data": {"train": str(made / "data"), "max_length": LENGTH, "eval_batch_size": 8},
            "teacher": {"model": str(made / "teacher")},
            "student": {"layers": 1},
            "finetune": None,
            "train": {"steps": 6, "batch_size": 4, "evaluate_every": 6, "dropout": 0.0},
            "telemetry": {"progress": "none", "log_every": 1},
            "parallel": {"data": 1, "compilation_cache": False},
            "generate": {"prompt_tokens": 4, "examples": 7, "batch_size": 4, "temperature": 0},
            **sections,
        }
    )


@pytest.mark.slow
def test_texts_are_continued_and_read_back(made, tmp_path):
    plan = config(made)
    output = tmp_path / "texts.jsonl"
    result = texts_stage.write(plan, tmp_path / "work", output)
    assert result["texts"] == result["new_texts"] == 7
    lines = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    assert len(lines) == 7
    dataset = build.load_data(plan, tmp_path / "work" / "data")
    tokenizer = load_tokenizer(dataset.tokenizer)
    teacher = load_model(made / "teacher")
    documents = read_documents(plan.data)["train"]
    corpus = tokenize_documents(documents, folder=dataset.tokenizer, cache_dir=None)
    prompts, _ = texts_stage.beginnings(corpus, tokenizer, LENGTH, 4)
    ids, mask = np.zeros((2, 7, 4), np.int32)
    for row, prompt in enumerate(prompts[:7]):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    written = generate(
        teacher, ids, mask, max_new_tokens=12, temperature=0, eos_id=0, vocabulary=260, multiple=4
    )
    for row, prompt in enumerate(prompts[:7]):
        whole = [*prompt, *np.asarray(written.tokens)[row, : int(written.lengths[row])]]
        assert lines[row] == tokenizer.decode(whole, skip_special_tokens=True)
    data = {"train": str(output), "validation": str(output), "max_length": LENGTH}
    assert build.load_data(config(made, data=data), tmp_path / "again").notes["train.rows"] == 7
    assert texts_stage.write(plan, tmp_path / "work", output)["new_texts"] == 0
    with pytest.raises(ConfigError, match=r"temperature: 0\.0 -> 1\.0"):
        texts_stage.write(
            config(made, generate={**plan.generate.model_dump(), "temperature": 1.0}),
            tmp_path / "work",
            output,
        )


@pytest.mark.slow
def test_texts_end_where_the_teachers_folder_says_too(made, tmp_path, caplog):
    plan = config(made)
    texts_stage.write(plan, tmp_path / "work", tmp_path / "whole.jsonl")
    tokenizer = load_tokenizer(made / "teacher")
    whole = [json.loads(line)["text"] for line in (tmp_path / "whole.jsonl").open()]
    letter = next(letter for letter in whole[0][3:] if letter.isascii() and letter not in "abcdef ")
    (stop,) = tokenizer(letter)["input_ids"]
    shutil.copytree(made / "teacher", tmp_path / "teacher")
    settings = {"eos_token_id": [tokenizer.eos_token_id, stop], "temperature": 0.1}
    (tmp_path / "teacher" / "generation_config.json").write_text(json.dumps(settings))
    plan = config(made, teacher={"model": str(tmp_path / "teacher")})
    caplog.clear()
    caplog.set_level("INFO", logger="jaxdistill")
    texts_stage.write(plan, tmp_path / "again", tmp_path / "ended.jsonl")
    ended = [json.loads(line)["text"] for line in (tmp_path / "ended.jsonl").open()]
    assert ended[0] == whole[0][: whole[0].index(letter)]
    # A model that knows nothing writes bytes that are no characters.
    assert any("\ufffd" in text for text in ended)
    assert "advises {'temperature': 0.1}, which is not applied" in caplog.text
    assert "of 7 new texts are cut into other tokens when they are read" in caplog.text


def test_long_texts_are_begun_in_every_row(made, tmp_path):
    folder = made / "teacher"
    tokenizer = load_tokenizer(folder)
    texts = Documents(["a b c d e f " * 6, "a"], chats=False, source="texts")
    corpus = tokenize_documents(texts, folder=folder, cache_dir=None)
    prompts, keep = texts_stage.beginnings(corpus, tokenizer, 10, 3)
    first, second = np.split(corpus.ids, corpus.offsets[1:-1])
    assert len(prompts) == -(-(len(first) - 1) // 10) + 1
    for index, prompt in enumerate(prompts[:-1]):
        expected = first[:-1][10 * index : 10 * index + 3]
        np.testing.assert_array_equal(prompt, expected)
    np.testing.assert_array_equal(prompts[-1], second[:-1][:3])
    assert keep(len(prompts) - 1, tokenizer("b c")["input_ids"]) == {"text": "ab c"}


def test_questions_are_what_stands_before_the_first_answer(made):
    tokenizer = load_tokenizer(made / "teacher")
    tokenizer.chat_template = TEMPLATE
    ask, answer = {"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}
    long = {"role": "user", "content": "a b c d e f " * 9}
    chats = [[ask, answer, ask, answer], [ask], [long, answer], [answer, ask]]
    documents = Documents([chat_of(chat) for chat in chats], chats=True, source="chats")
    prompts, keep = texts_stage.questions(documents, tokenizer, 30)
    assert len(prompts) == 2
    for prompt in prompts:
        assert tokenizer.decode(prompt) == "<user>a b\n<assistant>"
    said = {"role": "assistant", "content": "d e"}
    assert keep(0, tokenizer("d e")["input_ids"]) == {"messages": [ask, said]}
    with pytest.raises(DataError, match="got 2, but every one of 4 questions in chats has more"):
        texts_stage.questions(documents, tokenizer, 2)


def test_prompts_of_pairs_are_gone_on_with(made):
    tokenizer = load_tokenizer(made / "teacher")
    pairs = [("a b", " c"), ("a b c d e f " * 9, "a"), ("", "c")]
    documents = Documents(pairs, chats=False, source="pairs", pairs=True)
    prompts, keep = texts_stage.given_prompts(documents, tokenizer, 9)
    corpus = tokenize_documents(documents, folder=made / "teacher", cache_dir=None)
    for prompt, index in zip(prompts, (0, 2), strict=True):
        begins = corpus.offsets[index]
        whole = corpus.learned[begins : corpus.offsets[index + 1]]
        # The prompt as it stands before what is learned.
        np.testing.assert_array_equal(prompt, corpus.ids[begins:][: whole.argmax()])
    said = tokenizer("d e")["input_ids"]
    assert keep(0, said) == {"prompt": "a b", "completion": "d e"}
    with pytest.raises(DataError, match="got 0, but every one of 3 questions in pairs has more"):
        texts_stage.given_prompts(documents, tokenizer, 0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"generate": {"prompt_tokens": LENGTH}}, "generate.prompt_tokens: got 16, expected fewer"),
    ],
)
def test_what_cannot_be_written_is_named(made, tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        texts_stage.write(config(made, **sections), tmp_path, tmp_path / "texts.jsonl")


@pytest.fixture(scope="module")
def plan(made):
    """A run whose student writes no batch at first, and all of them at last."""
    share = {"share": {"start": 0.0, "end": 1.0, "over": 4}, "prompt_tokens": 4}
    return config(
        made,
        on_policy=share,
        # The doctor refuses a teacher that knows nothing.
        finetune={"steps": 60, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 60},
        objective={"it": {"loss": "reverse_kl"}, "hard": {"loss": "cross_entropy"}},
        parallel={"data": 2, "compilation_cache": False},
    )


@pytest.fixture(scope="module")
def before(plan, tmp_path_factory):
    """Its work directory when only the distillation is left."""
    workdir = tmp_path_factory.mktemp("before") / "work"
    stages.run(plan, workdir, until="baseline")
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_run_lets_the_student_write_a_share_of_the_batches(plan, before, tmp_path, strategy):
    shutil.copytree(before, tmp_path / "work")
    parallel = plan.parallel.model_copy(update={"strategy": strategy})
    plan = plan.model_copy(update={"parallel": parallel})
    stages.run(plan, tmp_path / "work", until="distill")
    lines = (tmp_path / "work" / "distill" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "on_policy" in row]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert rows[0]["on_policy"] == 0
    assert rows[-1]["on_policy"] == rows[-2]["on_policy"] == 1
    for row in rows:
        assert row["it"] > 0
        assert (row["hard"] == 0) == (row["on_policy"] == 1)
    alone = (tmp_path / "work" / "baseline" / "seed-0" / "metrics.jsonl").read_text()
    assert "on_policy" not in alone
    with pytest.raises(ConfigError, match=r"on_policy\.share"):
        stages.run(
            plan.model_copy(update={"on_policy": OnPolicyConfig(share=0.5, prompt_tokens=4)}),
            tmp_path / "work",
            until="distill",
        )


def test_the_command_names_its_file(made, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(texts_stage, "write", lambda *found, force: calls.append((*found, force)))
    path, workdir = tmp_path / "plan.yaml", tmp_path / "work"
    path.write_text(dump(config(made)))
    output = tmp_path / "texts.jsonl"
    assert cli.call(["generate", str(path), "--workdir", str(workdir)]) == 0
    more = ["generate.seed=3", "--output", str(output), "--force"]
    assert cli.call(["generate", str(path), "--workdir", str(workdir), *more]) == 0
    assert [call[1:] for call in calls] == [
        (workdir, workdir / "texts.jsonl", False),
        (workdir, output, True),
    ]
    assert [call[0].generate.seed for call in calls] == [0, 3]
    monkeypatch.undo()
    assert cli.call(["generate", str(path), "task=classification", "--workdir", str(workdir)]) == 2
    assert "the task is 'classification'" in capsys.readouterr().err
