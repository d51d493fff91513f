"""A corpus whose words follow each other by rule, and the config of a run over it."""

from pathlib import Path
from typing import Any

import numpy as np

WORDS = ["def", "return", "x", "y", "+", "*", "(", ")", ":", "1", "2", "if", "else", "for", "in"]
GPT2 = {
    "family": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


def write_corpus(folder: Path, documents: int = 60) -> str:
    """Files in which each word says which ones may follow it."""
    folder.mkdir()
    random = np.random.default_rng(0)
    follows = random.integers(0, len(WORDS), (len(WORDS), 3))
    for number in range(documents):
        word, said = random.integers(len(WORDS)), []
        for _ in range(random.integers(5, 60)):
            said.append(WORDS[word])
            word = follows[word, random.integers(3)]
        (folder / f"{number:03d}.txt").write_text(" ".join(said) + "\n")
    return str(folder)


def values(corpus: str, **sections: Any) -> dict[str, Any]:
    training = {"steps": 40, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 20}
    config: dict[str, Any] = {
        "name": "toy",
        "task": "language_model",
        "seeds": [0, 1],
        "data": {
            "train": corpus,
            "max_length": 32,
            "tokenizer": {"vocabulary": 280},
            "eval_batch_size": 8,
        },
        "teacher": {"model": GPT2},
        "student": {"layers": 1, "initialize_from": "finetuned"},
        "finetune": training,
        "train": {**training, "steps": 10, "evaluate_every": 10},
        "telemetry": {"progress": "none"},
        "parallel": {"data": 1, "compilation_cache": False},
    }
    for name, given in sections.items():
        merges = isinstance(given, dict) and isinstance(config.get(name), dict)
        config[name] = {**config[name], **given} if merges else given
    return config
