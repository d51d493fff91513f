"""Hugging Face checkpoints <-> parameters: names, layouts and configs, all faults in one error."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import TEMPLATES, Stored, some
from jaxdistill.files.safetensors_stream import Pending, aligned, all_finite
from jaxdistill.files.sentence_folder import encoder_folder
from jaxdistill.models.family import Family, FamilyConfig, Model, Options
from jaxdistill.models.hub.rules import Rule, flatten
from jaxdistill.types import Json, Tree

log = logging.getLogger("jaxdistill")

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# What travels with a model: tokenizers and image processors.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
    *PROCESSORS,
)
# What a config says of a head: written anew for the one that the model has, if any.
_OF_A_FORMER_HEAD = (
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "function_to_apply",
    "auto_map",  # names code that is not copied
)
FLOATS = ("F16", "BF16", "F32", "F64")


def canonical_names(family: Family, rules: Sequence[Rule], stored: Mapping[str, object]) -> dict:
    """Map the stored names to those of the rules: old endings renamed, a missing prefix added."""
    exact = {rule.theirs for rule in rules if not rule.stacked}
    numbered = [re.compile(_pattern(rule.theirs)) for rule in rules if rule.stacked]
    names = {}
    for name in stored:
        new = name
        for old, ending in family.renames.items():
            if new.endswith(old):
                new = new.removesuffix(old) + ending
        known = new in exact or new in family.aliases or _ignored(family, new, None)
        if not known and not any(p.fullmatch(new) for p in numbered):
            prefixed = f"{family.prefix}.{new}"
            inside = prefixed in exact or _ignored(family, prefixed, None)
            if family.prefix and (inside or any(p.fullmatch(prefixed) for p in numbered)):
                new = prefixed
        names[name] = new
    return names


def count_known(family: Family, rules: Sequence[Rule], stored: Mapping[str, object]) -> int:
    """Return how many of the stored names are those of the rules."""
    exact = {rule.theirs for rule in rules if not rule.stacked}
    numbered = [re.compile(_pattern(rule.theirs)) for rule in rules if rule.stacked]
    names = canonical_names(family, rules, stored).values()
    return sum(name in exact or any(p.fullmatch(name) for p in numbered) for name in names)


def _pattern(theirs: str) -> str:
    return re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(theirs))


def _ignored(family: Family, name: str, head: str | None) -> bool:
    others = [pattern for key, pattern in family.head_tensors.items() if key != head]
    return any(re.fullmatch(pattern, name) for pattern in (*family.ignored, *others))


def import_tensors(
    family: Family,
    config: FamilyConfig,
    options: Options,
    stored: Mapping[str, Stored],
    shapes: Mapping[str, Tree],
    *,
    where: str,
    fresh: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a checkpoint's tensors as our arrays, holding no more than one of them beside these.

    Args:
      shapes: `params/...` and `model_state/...` path -> shape and dtype wanted.
      where: names the checkpoint in messages.
      fresh: groups of rules that are not read even if stored.

    Returns:
      Arrays by path, and the paths that the checkpoint does not hold and may lack.

    Raises:
      ModelError: lists every missing, unexpected and misshapen tensor.
    """
    rules = list(family.rules(config, options))
    names = {new: old for old, new in canonical_names(family, rules, stored).items()}
    wanted: dict[str, tuple[Rule, tuple[int, ...]]] = {}
    parts: dict[Rule, list[tuple[tuple[int, ...], str]]] = {}
    for rule in rules:
        shape = shapes[f"{rule.collection}/{rule.ours}"].shape
        parts[rule] = list(rule.names(shape))
        wanted |= {name: (rule, rule.their_shape(shape)) for _, name in parts[rule]}
    for alias, target in family.aliases.items():  # a tied copy may be the only one stored
        if alias in names and alias not in wanted and target in wanted and target not in names:
            names[target] = names[alias]
    groups = {rule.group for rule, _ in wanted.values() if rule.group}
    held = {wanted[name][0].group for name in names if name in wanted}
    absent = {group for group in groups if group in fresh or group not in held}
    faults = _faults(family, options, stored, names, wanted, absent)
    if faults:
        message = "; ".join([*faults, *_advice(options, stored, faults)])
        raise ModelError(f"{where}: the tensors do not fit {family.name}: {message}")
    arrays: dict[str, np.ndarray] = {}
    for rule in rules:
        if rule.group in absent:
            continue
        path = f"{rule.collection}/{rule.ours}"
        array = aligned(shapes[path].shape, shapes[path].dtype)
        finite = True
        for index, name in parts[rule]:
            array[index] = rule.to_ours(stored[names[name]].read())
            finite &= all_finite(array[index])
        if not finite:
            faults.append(rule.theirs)
        arrays[path] = array
    if faults:
        raise ModelError(f"{where}: got values that are not finite in {some(faults)}")
    left = sorted(old for new, old in names.items() if new not in wanted)
    if left:
        log.info(
            "%s: left out %d tensors the model has no use for: %s", where, len(left), some(left)
        )
    return arrays, [f"{r.collection}/{r.ours}" for r in rules if r.group in absent]


def _faults(
    family: Family,
    options: Options,
    stored: Mapping[str, Stored],
    names: Mapping[str, str],
    wanted: Mapping[str, tuple[Rule, tuple[int, ...]]],
    absent: set[str],
) -> list[str]:
    missing, misshapen, unequal, unexpected = [], [], [], []
    for name, (rule, shape) in wanted.items():
        if rule.group in absent:
            continue
        if name not in names:
            missing.append(f"{name} {list(shape)}")
            continue
        tensor = stored[names[name]]
        floats = tensor.dtype in FLOATS or rule.collection == "model_state"
        if tensor.shape != shape or not floats:
            got = f"{list(tensor.shape)} {tensor.dtype}"
            misshapen.append(f"{names[name]} got {got}, expected {list(shape)} F32")
    for name, old in names.items():
        if name in wanted or _ignored(family, name, options.head):
            continue
        target = family.aliases.get(name)
        if target is not None and target in names and target in wanted:
            if not stored[old].equals(stored[names[target]]):
                unequal.append(f"{old} is not equal to {names[target]}")
        elif target is None:
            unexpected.append(f"{old} {list(stored[old].shape)}")
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "that must be tied": unequal,
    }
    return [f"{len(found)} {kind}: {some(found)}" for kind, found in kinds.items() if found]


def _advice(options: Options, stored: Mapping[str, Stored], faults: Sequence[str]) -> Iterator[str]:
    """Yield what to do about tensors that do not fit, where it is known."""
    if options.head == "lm" and any(name.endswith("score.weight") for name in stored):
        yield "the folder holds a classifier, expected one saved as a language model"
    kinds = {fault.split(":")[0].split(" ", 1)[1] for fault in faults}
    if "misshapen" in kinds:
        yield "config.json is not of these weights: copy both from one place, or correct its sizes"
    if "that must be tied" in kinds:
        yield "save the model with one of the two, as it is used"
    if kinds == {"missing", "unexpected"}:
        yield "are these the names that save_pretrained of transformers writes?"


def export_tensors(family: Family, model: Model, shapes: Mapping[str, Tree]) -> dict[str, Pending]:
    """Lay out a model's parameters and statistics under Hugging Face names, each when written.

    Args:
      shapes: `params/...` and `model_state/...` path -> shape that the model's config asks for.

    Raises:
      ModelError: the parameters are not those of the model's config.
    """
    assert model.options is not None
    flat = flatten({"params": model.params, "model_state": model.model_state or {}})
    places: dict[str, list[tuple[Rule, tuple[int, ...]]]] = {}
    for rule in family.rules(model.config, model.options):
        path = f"{rule.collection}/{rule.ours}"
        if path not in flat:
            raise ModelError(f"{path}: missing from the parameters, expected for {family.name}")
        if flat[path].shape != shapes[path].shape:
            got, expected = (list(array.shape) for array in (flat[path], shapes[path]))
            raise ModelError(f"{path}: got shape {got}, expected {expected} by the model's config")
        for index, name in rule.names(flat[path].shape):
            bare = name.removeprefix(f"{family.prefix}.") if model.options.head is None else name
            places.setdefault(bare, []).append((rule, index))

    def make(found: list[tuple[Rule, tuple[int, ...]]]) -> np.ndarray:
        # On CPU a view of what jax holds; the parts of a tensor come in their order.
        parts = [
            rule.to_theirs(np.asarray(flat[f"{rule.collection}/{rule.ours}"])[index])
            for rule, index in found
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    tensors = {}
    for name, found in places.items():
        leaf = flat[f"{found[0][0].collection}/{found[0][0].ours}"]
        dtype = np.dtype(np.int64 if np.issubdtype(leaf.dtype, np.integer) else leaf.dtype)
        shape = found[0][0].their_shape(leaf.shape)
        tensors[name] = Pending(shape, dtype, functools.partial(make, found))
    return tensors


def export_config(family: Family, model: Model) -> Json:
    """Build the `config.json` of a model: the raw config it came with, under what it is now."""
    options = model.options
    assert options is not None
    raw = {k: v for k, v in model.config.extra.items() if k not in ("torch_dtype", "_name_or_path")}
    fields = dataclasses.fields(model.config)
    raw |= {f.name: getattr(model.config, f.name) for f in fields if f.name != "extra"}
    raw |= {"model_type": raw.get("model_type", family.name), "dtype": "float32"}
    raw["architectures"] = [family.architectures[options.head]]
    for name in _OF_A_FORMER_HEAD:
        raw.pop(name, None)
    if options.head == "masked_lm":
        raw["tie_word_embeddings"] = True  # the projection is the word table, stored once
    if options.head == "classification":
        labels = model.labels or [f"LABEL_{i}" for i in range(options.num_labels)]
        raw["id2label"] = {str(i): label for i, label in enumerate(labels)}
        raw["label2id"] = {label: i for i, label in enumerate(labels)}
        one = options.num_labels == 1
        default = "regression" if one else "single_label_classification"
        raw["problem_type"] = options.problem_type or default
        raw.pop("jaxdistill_pooling", None)
        if options.pooling != "default":
            raw["jaxdistill_pooling"] = options.pooling
    return raw


def companions(folder: Path | None) -> list[Path]:
    """List the tokenizer and processor files of a folder."""
    if folder is None:
        return []
    folder = encoder_folder(folder)
    named = [folder / name for name in COMPANIONS if (folder / name).is_file()]
    return named + sorted((folder / TEMPLATES).glob("*.jinja"))
