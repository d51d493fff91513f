"""A whole run at toy size: a tiny teacher folder with its tokenizer, text files, and a config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdistill.cli.app import call
from jaxdistill.models.registry import build_model, save_model
from support.setups import LABELS, WORDS, save_tokenizer

POSITIVE, NEGATIVE = "good", "bad"
SIZES = {
    "family": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def write_sentences(path: Path, rows: int, seed: int) -> str:
    """Write a TSV whose label is whether `good` or `bad` occurs, among other words."""
    random = np.random.default_rng(seed)
    lines = ["sentence\tlabel"]
    for row in range(rows):
        label = row % 2
        words = list(
            random.choice(["a", "b", "film", "one", "two", "three"], random.integers(1, 9))
        )
        words.insert(random.integers(len(words) + 1), POSITIVE if label else NEGATIVE)
        lines.append(f"{' '.join(words)}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_teacher(folder: Path, seed: int = 0, **fields: Any) -> str:
    """Save a random tiny BERT with its tokenizer."""
    save_model(folder, build_model({**SIZES, **fields}, labels=LABELS, seed=seed))
    save_tokenizer(folder, WORDS)
    return str(folder)


def write_config(folder: Path, **sections: Any) -> str:
    """Write a config of a run that takes seconds, and everything it names; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}
    config: dict[str, Any] = {
        "name": "toy",
        "seeds": [0],
        "data": {
            "train": write_sentences(folder / "train.tsv", 96, seed=0),
            "validation": write_sentences(folder / "dev.tsv", 48, seed=1),
            "max_length": 16,
            "buckets": 2,
            "eval_batch_size": 16,
        },
        "teacher": {"model": write_teacher(folder / "teacher")},
        "student": {"layers": [1]},
        "finetune": training,
        "train": training,
        "telemetry": {"progress": "none"},
        "parallel": {"data": 1, "compilation_cache": False},
    }
    for name, values in sections.items():
        merges = isinstance(values, dict) and isinstance(config.get(name), dict)
        config[name] = {**config[name], **values} if merges else values
    path = folder / "toy.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must end with code 2 and one line that says why; return the line."""
    code = call(arguments)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert code == 2, captured.err
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]
