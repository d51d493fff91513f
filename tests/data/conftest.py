"""A tokenizer made on the spot, and splits of random tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxdistill.data.inputs.tokens import Tokens
from jaxdistill.data.split import Split, digest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "good", "bad", "film", "one", "two", "three"]


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A folder with a word-level tokenizer: `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Write a file into a temporary folder and return its path."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def random_split(lengths: np.ndarray, seed: int = 0) -> Split:
    """Make texts whose tokens tell their example: `1000 * (example + 1) + place`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    example = np.repeat(np.arange(len(lengths)), lengths)
    tokens = (1000 * (example + 1) + np.arange(offsets[-1]) - offsets[example]).astype(np.int32)
    labels = np.random.default_rng(seed).integers(0, 3, len(lengths)).astype(np.int32)
    inputs = Tokens(tokens, (tokens % 2).astype(np.uint8), offsets, pad_id=7)
    return Split(labels, inputs, digest(labels, tokens))


@pytest.fixture
def make_split() -> Callable[..., Split]:
    """See `random_split`."""
    return random_split
