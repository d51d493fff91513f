"""Tokens that end what a model writes: the tokenizer's, and those that its folder names besides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxdistill.config.schema import Config, TokenizerConfig
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.types import Json

_GENERATION = "generation_config.json"


def end_ids(tokenizer: Any, folders: Iterable[Path | None]) -> tuple[int, ...]:
    """Return the tokens that end a text or a turn, each once, the tokenizer's first.

    A folder names them in `generation_config.json`, or in `config.json` where it has none, as
    transformers reads them; chat models often have two, one for a turn and one for a text.

    Args:
      tokenizer: tokenizer of transformers; its `eos_token_id` ends the documents of a language
        model.
      folders: folders of the models that write; None and names of no folder are passed over.
    """
    found = [tokenizer.eos_token_id]
    for folder in folders:
        if folder is not None:
            settings = generation_settings(folder)
            named = settings if settings is not None else _json(folder / "config.json") or {}
            found += _listed(named.get("eos_token_id"))
    known = len(tokenizer)
    return tuple(dict.fromkeys(int(i) for i in found if i is not None and 0 <= i < known))


def generation_settings(folder: Path) -> Json | None:
    """Return what a folder's `generation_config.json` says, or None where it has none."""
    return _json(folder / _GENERATION)


def generation_config(tokenizer: Any, ends: Iterable[int], origins: Iterable[Path | None]) -> Json:
    """Build the `generation_config.json` of a model that was trained with a tokenizer.

    The settings of the first of `origins` that has some (temperature, top_p and so on), with the
    tokens that begin, end and pad a text as the tokenizer has them.

    Args:
      ends: from `end_ids`.
      origins: folders of the models that it comes from.
    """
    found = (generation_settings(folder) for folder in origins if folder is not None)
    settings = dict(next((given for given in found if given is not None), {}))
    settings.pop("transformers_version", None)
    listed = list(ends)
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": listed[0] if len(listed) == 1 else listed or None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in tokens.items():
        if value is not None:
            settings[name] = value
        elif name != "eos_token_id" and not _known(settings.get(name), len(tokenizer)):
            settings.pop(name, None)
    return settings


def _known(value: object, size: int) -> bool:
    return isinstance(value, int) and 0 <= value < size


def _listed(value: object) -> list[object]:
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, int) and not isinstance(item, bool)]


def _json(path: Path) -> Json | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return dict(content) if isinstance(content, Mapping) else None


def ends_of(config: Config, dataset: Dataset) -> tuple[int, ...]:
    """Return the tokens at which a text of this run ends, whoever of its models writes it."""
    assert dataset.tokenizer is not None  # a language model's data has one
    # The ids of a folder mean nothing to a tokenizer that was trained on the documents.
    own = isinstance(config.data.tokenizer, TokenizerConfig)
    folders = [dataset.tokenizer, *([] if own else _origins(config))]
    return end_ids(load_tokenizer(dataset.tokenizer), folders)


def generation_config_of(config: Config, dataset: Dataset) -> Json:
    """Return the `generation_config.json` of a model that this run trains."""
    assert dataset.tokenizer is not None  # a language model's data has one
    return generation_config(
        load_tokenizer(dataset.tokenizer), ends_of(config, dataset), _origins(config)
    )


def _origins(config: Config) -> list[Path]:
    """Return the folders that models are made from, the student's first."""
    models = (config.student.model, config.teacher.model)
    return [Path(model) for model in models if isinstance(model, str)]
