"""Sentence-transformers folders on disk: an encoder, how its tokens are pooled, and what follows.

Reimers and Gurevych 2019 (arXiv 1908.10084). Such a folder lists its modules in `modules.json`;
each has a folder of its own, only the encoder may lie beside the list.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import read_json

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SETTINGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "xlm-roberta")
)
POOLINGS = {"mean": "mean", "cls": "first"}
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclasses.dataclass(frozen=True)
class SentenceFolder:
    """What a sentence-transformers folder says.

    Attributes:
      encoder: the folder of the encoder's config, weights and tokenizer.
      pooling: `mean` or `first`, or the folder's own word for another, or None where it has none.
      dense: folders of the dense layers that the pooled vector goes through.
      others: class names of its other modules.
      max_length: the longest row in tokens, longer ones are cut; None where it does not say.
      lower_case: whether texts are lower-cased before the tokenizer sees them.
      prompt: what is put before every text unless asked otherwise.
    """

    encoder: Path
    pooling: str | None
    dense: tuple[Path, ...]
    others: tuple[str, ...]
    max_length: int | None
    lower_case: bool
    prompt: str


def sentence_folder(folder: Path) -> SentenceFolder | None:
    """Read what a sentence-transformers folder says; None for a folder that is none.

    Raises:
      ModelError: files of the folder are damaged.
    """
    if not (folder / MODULES).is_file():
        return None
    try:
        listed = json.loads((folder / MODULES).read_text("utf-8"))
        modules = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{folder / MODULES}: got no list of modules with 'type' and 'path' ({error!r}); copy "
            "the file again"
        ) from None
    encoder = next((folder / path for kind, path in modules if kind == "Transformer"), folder)
    poolings = [_pooling(folder / path) for kind, path in modules if kind == "Pooling"]
    settings = next((read_json(encoder / n) for n in SETTINGS if (encoder / n).is_file()), {})
    limit = settings.get("max_seq_length")
    return SentenceFolder(
        encoder,
        pooling=poolings[0] if poolings else None,
        dense=tuple(folder / path for kind, path in modules if kind == "Dense"),
        others=tuple(k for k, _ in modules if k not in ("Transformer", "Pooling", "Dense")),
        max_length=limit if isinstance(limit, int) and limit > 0 else None,
        lower_case=bool(settings.get("do_lower_case", False)),
        prompt=_prompt(folder),
    )


def encoder_folder(folder: Path) -> Path:
    """Return the folder of a model's config, weights and tokenizer: itself, or a part of it."""
    found = sentence_folder(folder)
    return folder if found is None else found.encoder


def _pooling(folder: Path) -> str:
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in OLD_POOLINGS.items() if config.get(name)]
    mode = modes if isinstance(modes, str) else "+".join(modes)
    return POOLINGS.get(mode, mode)


def _prompt(folder: Path) -> str:
    if not (folder / PROMPTS).is_file():
        return ""
    config = read_json(folder / PROMPTS)
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name")) or "")
