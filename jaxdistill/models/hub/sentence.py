"""Sentence-transformers folders: an encoder, how its tokens are pooled, and what comes after.

Reimers and Gurevych 2019 (arXiv 1908.10084). Such a folder lists its modules in `modules.json`;
each has a folder of its own, only the encoder may lie beside the list.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.errors import ModelError
from jaxdistill.files.safetensors_stream import Pending
from jaxdistill.models.family import Family, Model, Options
from jaxdistill.models.hub.folder import WEIGHTS, Stored, open_tensors, read_json

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
ENCODER, POOLING = "0_Transformer", "1_Pooling"
_SETTINGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "xlm-roberta")
)
_POOLINGS = {"mean": "mean", "cls": "first"}
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    None: "torch.nn.modules.linear.Identity",
    "relu": "torch.nn.modules.activation.ReLU",
    "tanh": "torch.nn.modules.activation.Tanh",
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
      ModelError: its files are damaged.
    """
    if not (folder / MODULES).is_file():
        return None
    try:
        listed = json.loads((folder / MODULES).read_text("utf-8"))
        modules = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / MODULES}: got no list of modules with 'type' and 'path' ({error!r}); copy "
            "the file again"
        ) from None
    encoder = next((folder / path for kind, path in modules if kind == "Transformer"), folder)
    poolings = [_pooling(folder / path) for kind, path in modules if kind == "Pooling"]
    settings = next((read_json(encoder / n) for n in _SETTINGS if (encoder / n).is_file()), {})
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
        modes = [mode for name, mode in _OLD_POOLINGS.items() if config.get(name)]
    mode = modes if isinstance(modes, str) else "+".join(modes)
    return _POOLINGS.get(mode, mode)


def _prompt(folder: Path) -> str:
    if not (folder / PROMPTS).is_file():
        return ""
    config = read_json(folder / PROMPTS)
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name")) or "")


def stored_head(
    family: Family, config: Any, options: Options, found: SentenceFolder
) -> dict[str, Stored]:
    """Find a classification head among the dense layers, under the names of the family.

    Raises:
      ModelError: there are more or fewer layers than the head has.
    """
    stems = _head_stems(family, config, options)
    if len(stems) != len(found.dense):
        raise ModelError(
            f"{found.encoder.parent}: got {len(found.dense)} Dense modules, expected the "
            f"{len(stems)} layers of a {family.name} classifier"
        )
    tensors = {}
    for stem, folder in zip(stems, found.dense, strict=True):
        for name, tensor in open_tensors(folder).items():
            tensors[name.replace("linear", stem, 1)] = tensor
    return tensors


def _head_stems(family: Family, config: Any, options: Options) -> list[str]:
    """Return the names of the head's layers in their order, without `.weight` and `.bias`."""
    rules = [rule for rule in family.rules(config, options) if rule.group == "head"]
    return list(dict.fromkeys(rule.theirs.rpartition(".")[0] for rule in rules))


def lay_out(
    family: Family, model: Model, tensors: Mapping[str, Pending], limit: int | None
) -> tuple[dict[str, Pending], dict[str, str | dict[str, Pending]]]:
    """Lay a model out as an encoder, its pooling and dense layers that are its head.

    `SentenceTransformer(folder).encode(texts)` then gives what the model gives: logits where it has
    a head, else the pooled vectors.

    Args:
      tensors: by their names in the family's own classifier.
      limit: the longest row in tokens.

    Returns:
      The encoder's tensors, and the other files by their paths in the folder: texts, or tensors.
    """
    assert model.options is not None
    options, width = model.options, model.config.hidden_size
    stems = _head_stems(family, model.config, options) if options.head is not None else []
    acts = [family.head_activation] * (len(stems) - 1) + [None]
    pools = {name: mode == options.pooling for name, mode in _pooling_fields().items()}
    settings = {"do_lower_case": False} | ({} if limit is None else {"max_seq_length": limit})
    modules = [("Transformer", ENCODER), ("Pooling", POOLING)]
    files: dict[str, str | dict[str, Pending]] = {
        f"{ENCODER}/{_SETTINGS[0]}": _json(settings),
        f"{POOLING}/config.json": _json({"word_embedding_dimension": width, **pools}),
    }
    encoder = dict(tensors)
    for number, (stem, act) in enumerate(zip(stems, acts, strict=False), 2):
        path = f"{number}_Dense"
        parts = ("weight", "bias")
        layer = {f"linear.{part}": encoder.pop(f"{stem}.{part}") for part in parts}
        size, inputs = layer["linear.weight"].shape
        modules.append(("Dense", path))
        files[f"{path}/{WEIGHTS}"] = layer
        files[f"{path}/config.json"] = _json(
            {
                "in_features": inputs,
                "out_features": size,
                "bias": True,
                "activation_function": _ACTIVATIONS[act],
            }
        )
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    files[MODULES] = _json(listed)
    return {name.removeprefix(f"{family.prefix}."): t for name, t in encoder.items()}, files


def _pooling_fields() -> dict[str, str]:
    """Return the fields by which every version of the library knows a pooling."""
    return {name: _POOLINGS.get(mode, mode) for name, mode in _OLD_POOLINGS.items()}


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"
