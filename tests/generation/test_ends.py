"""Ends of turns: where ours stops, transformers stops on the exported folder, and the reverse."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.chats import chat_tokenizer

from jaxdistill.config.load import check
from jaxdistill.data.text.ends import ends_of, generation_config_of
from jaxdistill.generation.decode import generate
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.setup.facts import Facts
from jaxdistill.setup.resolve import resolve

LLAMA = {
    "family": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "vocab_size": 261,
    "initializer_range": 0.5,
}
PROMPT = np.array([[1, 40, 50, 60]])


def data_of(tokenizer: Path) -> Any:
    """What is asked of a data set here: whose tokenizer reads it, and how rows are padded."""
    return SimpleNamespace(tokenizer=tokenizer, train=SimpleNamespace(pad_id=0), vocabulary=None)


def run_of(teacher: Path, **data):
    return check(
        {
            "task": "language_model",
            "data": {"train": "x", "max_length": 16, **data},
            "teacher": {"model": str(teacher)},
            "student": {"layers": 1},
            "on_policy": {"prompt_tokens": 4},
        }
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder whose generation_config.json ends a turn at the fifth token that it writes."""
    folder = tmp_path_factory.mktemp("ends") / "teacher"
    tokens = chat_tokenizer("chatml", eos_token="<eos>")
    tokens.save_pretrained(folder.parent / "tokens")
    save_model(folder, build_model(LLAMA, seed=3), tokenizer_from=folder.parent / "tokens")
    assert not (folder / "generation_config.json").exists()
    written = generate(load_model(folder), PROMPT, max_new_tokens=12, temperature=0, eos_id=None)
    row = np.asarray(written.tokens)[0].tolist()
    turn = next(token for token in row[3:] if token not in row[: row.index(token)] and token > 4)
    settings = {"eos_token_id": [4, turn], "temperature": 0.6, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder, turn, row


@pytest.mark.slow
def test_the_exported_student_stops_in_transformers_where_ours_stops(teacher, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    folder, turn, row = teacher
    config, dataset = run_of(folder), data_of(folder)
    ends = ends_of(config, dataset)
    assert ends == (4, turn)
    student = load_model(folder)
    save_model(
        tmp_path / "student",
        student,
        tokenizer_from=folder,
        generation=generation_config_of(config, dataset),
    )
    written = generate(student, PROMPT, max_new_tokens=12, temperature=0, eos_id=list(ends))
    ours = np.asarray(written.tokens)[0, : int(written.lengths[0])].tolist()
    reference: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    theirs = reference.generate(
        torch.tensor(PROMPT),
        attention_mask=torch.ones(PROMPT.shape, dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
    )
    assert theirs[0, PROMPT.shape[1] :].tolist() == ours == row[: row.index(turn) + 1]
    stored = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert stored["temperature"] == 0.6
    assert stored["pad_token_id"] == 0


def test_a_model_saved_by_hand_keeps_the_ends_of_its_folder(teacher, tmp_path):
    folder, turn, _ = teacher
    save_model(tmp_path / "copy", load_model(folder))
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_text()) == json.loads(
        (folder / "generation_config.json").read_text()
    )
    save_model(tmp_path / "bare", load_model(folder, head=None))
    assert not (tmp_path / "bare" / "generation_config.json").exists()
    assert turn


def test_students_that_write_for_themselves_know_all_ends(teacher):
    folder, turn, _ = teacher
    config, model = run_of(folder), load_model(folder)
    facts = Facts(ends=ends_of(config, data_of(folder)))
    setup = resolve(config, config.train, facts, model, model, total_steps=10)
    assert setup.writes is not None
    assert list(setup.writes.keywords["eos_id"]) == [4, turn]


def test_ids_of_a_folder_say_nothing_of_a_tokenizer_trained_on_the_documents(teacher):
    folder, _, _ = teacher
    config = run_of(folder, tokenizer={"vocabulary": 300})
    assert ends_of(config, data_of(folder.parent / "tokens")) == (4,)


def test_templates_in_a_folder_of_their_own_travel_along(teacher, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    tokenizer.save_pretrained(tmp_path / "two")
    save_model(tmp_path / "out", load_model(teacher[0]), tokenizer_from=tmp_path / "two")
    found = AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert found == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
