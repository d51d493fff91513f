"""Small text data, encoders and tokenizers for the doctor's healthy and faulty set-ups."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.data.dataset import Dataset
from jaxdistill.data.inputs.tokens import Tokens
from jaxdistill.data.split import Split, make_split
from jaxdistill.models.assembly import abstract, assemble
from jaxdistill.models.family import Model, Options, config_from
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import family_named

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "good", "bad", "film", "one", "two", "three"]
LABELS = ("negative", "positive")


def text_split(rows: int, seed: int, *, pairs: bool = False) -> Split:
    """Random rows of 3 to 8 tokens with balanced labels."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = random.integers(4, len(WORDS), offsets[-1]).astype(np.int32)
    types = np.zeros(offsets[-1], np.uint8)
    if pairs:
        types[offsets[1:] - 1] = 1
    texts = [" ".join(WORDS[t] for t in tokens[a:b]) for a, b in pairwise(offsets)]
    columns = (texts, texts) if pairs else (texts,)
    inputs = Tokens(tokens, types, offsets, texts=columns)
    return make_split((np.arange(rows) % 2).astype(np.int32), inputs)


def text_dataset(*, pairs: bool = False, **notes: int) -> Dataset:
    train, validation = text_split(64, 0, pairs=pairs), text_split(400, 1, pairs=pairs)
    counts = {"train.rows": 64, "train.cut": 0, "validation.rows": 400, "validation.cut": 0}
    return Dataset(
        train=train,
        validation=validation,
        test=None,
        modality="text",
        labels=LABELS,
        num_labels=2,
        fingerprint="x",
        notes={**counts, "train.repeated": 0, "validation.seen": 0, **notes},
    )


def encoder(
    layers: int = 2, *, family: str = "bert", labels: Sequence[str] = LABELS, **fields: Any
) -> Model:
    """Make an encoder whose parameters are all zero: drawing them would have to be compiled."""
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
    }
    found = family_named(family)
    config = config_from(found, {**sizes, **fields}, {})
    options = Options(num_labels=len(labels))
    _, shapes, _, _ = abstract(found, config, options)
    leaves = {
        path: np.zeros(leaf.shape, np.float32) for path, leaf in flatten({"params": shapes}).items()
    }
    paths = tuple(path.removeprefix("params/") for path in leaves)
    return assemble(found, config, options, leaves, labels=tuple(labels), initialized=paths)


def save_tokenizer(folder: Path, words: list[str], *, lowercase: bool = False) -> str:
    """Write a word-level tokenizer in the given order of ids."""
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "[UNK]"}))
    return str(folder)
