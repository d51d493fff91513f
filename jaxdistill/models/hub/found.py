"""Checkpoints as they are found: names that wrappers left, adapters, quantized and untied weights.

What means the same model is read as it; what does not is refused with the way out.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import Stored, some
from jaxdistill.models.family import Family
from jaxdistill.models.hub.convert import FLOATS, count_known
from jaxdistill.models.hub.rules import Rule
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

# Parts of names that DistributedDataParallel, torch.compile, FSDP, activation checkpointing and
# DeepSpeed put around a model, or around parts of it.
_WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
_ADAPTERS = ("lora_", ".base_layer.", "ia3_", "prompt_encoder.", "modules_to_save.")


def without_quantization(raw: Json, stored: Mapping[str, Stored], folder: Path) -> Json:
    """Return a raw config without `quantization_config`, where the weights are plain after all.

    Raises:
      ModelError: they are quantized.
    """
    if not raw.get("quantization_config"):
        return dict(raw)
    how = raw["quantization_config"]
    method = how.get("quant_method", "unknown") if isinstance(how, Mapping) else "unknown"
    packed = [name for name, tensor in stored.items() if tensor.dtype not in FLOATS]
    packed += [name for name in stored if name.endswith(("_scale_inv", ".scales", ".qzeros"))]
    if packed:
        raise ModelError(
            f"{folder}: got weights quantized by {method!r} ({some(sorted(set(packed))[:3])}), "
            "expected float ones; give the model that was quantized, or write it back as floats "
            "where it came from (in transformers: model.dequantize().save_pretrained(folder))"
        )
    log.warning(
        "%s: config.json says quantization by %r, but the weights are plain; that is left out",
        folder,
        method,
    )
    return {name: value for name, value in raw.items() if name != "quantization_config"}


def unwrapped(
    family: Family, rules: Sequence[Rule], stored: dict[str, Stored], folder: Path
) -> dict[str, Stored]:
    """Return a checkpoint's tensors by the names that the model gave them.

    Raises:
      ModelError: adapters are not merged into the weights that they change.
    """
    added = [name for name in stored if any(mark in f".{name}" for mark in _ADAPTERS)]
    if added:
        raise ModelError(
            f"{folder}: got adapters beside the weights ({some(sorted(added)[:3])}), expected one "
            "tensor each; merge them where they came from (in peft: model.merge_and_unload()) and "
            "save again"
        )
    best, most = stored, count_known(family, rules, stored)
    for names in _candidates(list(stored)):
        if len(set(names)) == len(stored):
            renamed = dict(zip(names, stored.values(), strict=True))
            known = count_known(family, rules, renamed)
            if known > most:
                best, most = renamed, known
    if best is not stored:
        before, after = next((a, b) for a, b in zip(stored, best, strict=True) if a != b)
        log.warning("%s: the names of a wrapper are taken off: %s is %s", folder, before, after)
    return best


def _candidates(names: list[str]) -> Iterator[list[str]]:
    """Yield the names without what is known to be put around them, and without a common first."""
    bare = [_bare(name) for name in names]
    yield bare
    # A trainer's own attribute, such as `student.` or `net.`.
    if len({name.partition(".")[0] for name in bare}) == 1:
        yield [name.partition(".")[2] for name in bare]


def _bare(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    return ".".join(parts)


def settle_tie(family: Family, config: Any, stored: Mapping[str, Stored], folder: Path) -> Any:
    """Return a language model's config with its head untied, where the file holds another head.

    That is what transformers does with such a file, whatever its config says.
    """
    target = family.aliases.get("lm_head.weight")
    names = {name.removeprefix(f"{family.prefix}."): name for name in stored}
    table = None if target is None else names.get(target.removeprefix(f"{family.prefix}."))
    if not getattr(config, "tie_word_embeddings", False) or table is None:
        return config
    if "lm_head.weight" not in stored or stored["lm_head.weight"].equals(stored[table]):
        return config
    log.warning(
        "%s: config.json ties the head to the word table, but lm_head.weight is another; both are "
        "kept, as by tie_word_embeddings: false",
        folder,
    )
    return dataclasses.replace(config, tie_word_embeddings=False)


def refuse_lost_head(
    folder: Path, rules: Sequence[Rule], held: Mapping[str, int], stored: Mapping[str, Stored]
) -> None:
    """Refuse a language model whose file has lost its head: a drawn one says nothing.

    Raises:
      ModelError: names the tensor.
    """
    lost = [rule.theirs for rule in rules if rule.group == "head" and "head" not in held]
    if not lost:
        return
    other = [name for name in stored if name.endswith(("score.weight", "classifier.weight"))]
    if other:
        raise ModelError(
            f"{folder}: got the head of a classifier ({other[0]}) and no {lost[0]}, expected a "
            "language model; give a folder saved as one"
        )
    raise ModelError(
        f"{folder}: got no {lost[0]}, expected the head of a language model; where it is the word "
        "table, set tie_word_embeddings: true in config.json, else save the model with its head "
        "(load_model draws a new one by fresh_head=True)"
    )
