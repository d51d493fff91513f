"""What is special to a run with a language model: its data and its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.text.packed_dataset import prepare_language
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.models.registry import Model


def load_data(
    config: Config, tokenizer_folder: Path | None, positions: Mapping[str, int], folder: Path
) -> Dataset:
    """Read, tokenize and pack the documents of a run."""
    return prepare_language(
        config.data,
        tokenizer_folder=tokenizer_folder,
        positions=positions,
        folder=folder,
    )


def with_tokenizer(model: Model, dataset: Dataset) -> Model:
    """Note the tokens that begin, end and pad a text in a new model's config."""
    assert dataset.tokenizer is not None  # a language model's data has one
    tokenizer = load_tokenizer(dataset.tokenizer)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    extra = {name: getattr(tokenizer, name) for name in names}
    config = dataclasses.replace(model.config, extra={**model.config.extra, **extra})
    return dataclasses.replace(model, config=config)
