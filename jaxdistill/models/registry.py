"""Model families by name, and models from a spec or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import (
    GENERATION,
    SHARD_BYTES,
    Stored,
    open_tensors,
    read_json,
    refuse_adapter,
    write_folder,
)
from jaxdistill.files.sentence_folder import sentence_folder
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.family import (
    Apply,
    Family,
    FamilyConfig,
    Model,
    Options,
    abstract,
    assemble,
    check_options,
    config_from,
    initial,
    pools,
)
from jaxdistill.models.hub.convert import (
    PROCESSORS,
    canonical_names,
    companions,
    export_config,
    export_tensors,
    import_tensors,
)
from jaxdistill.models.hub.found import (
    refuse_lost_head,
    settle_tie,
    unwrapped,
    without_quantization,
)
from jaxdistill.models.hub.rules import Rule, flatten
from jaxdistill.models.hub.sentence import ENCODER, lay_out, stored_head
from jaxdistill.models.hub.tokenizer_files import tokenizer_texts
from jaxdistill.models.labels import agree, count_labels
from jaxdistill.models.registered import families, family_named, family_names
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

__all__ = [
    "Apply",
    "Family",
    "Model",
    "Options",
    "Rule",
    "build_model",
    "families",
    "family_named",
    "load_model",
    "save_model",
]


def build_model(
    spec: Mapping[str, Any],
    *,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    head: str | None = "default",
    seed: int = 0,
    pooling: str = "default",
    problem_type: str | None = None,
    dtype: str = "float32",
    remat: bool = False,
    attention: str = "auto",
    unroll: int = 1,
    logits: bool = True,
) -> Model:
    """Build a model with fresh parameters from a spec such as `{"family": "bert", ...}`.

    Args:
      spec: the family and fields of its Hugging Face config; what is absent keeps its default.
      num_labels: outputs of a classification head, or give `labels`.
      labels: names of the classes in the order of the logits.
      head: head as in `Options`; `default`: `lm` for a decoder, else `classification`.
      seed: seed of the parameters' initial values.
      pooling, problem_type, dtype, remat, attention, unroll, logits: fields of `Options`.

    Raises:
      ModelError: an unknown family, field or option, or no number of labels.
    """
    if "family" not in spec:
        known = sorted(family_names())
        raise ModelError(f"model: got {dict(spec)}, expected 'family', one of {known}")
    family = family_named(spec["family"])
    config = config_from(family, {k: v for k, v in spec.items() if k != "family"}, {})
    head = family.head_named(head)
    options = Options(
        head=head,
        num_labels=count_labels(head, num_labels, labels),
        pooling=pooling,
        problem_type=problem_type,
        dtype=dtype,
        remat=remat,
        attention=attention,
        unroll=unroll,
        logits=logits,
    )
    check_options(family, options)
    _, shapes, statistics, _ = abstract(family, config, options)
    paths = list(flatten({"params": shapes, "model_state": statistics}))
    leaves = initial(family, config, options, seed, paths)
    names = None if labels is None else tuple(labels)
    new = tuple(sorted(flatten(shapes)))
    return assemble(family, config, options, leaves, labels=names, initialized=new)


def load_model(
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    head: str | None = "default",
    fresh_head: bool = False,
    seed: int = 0,
    pooling: str | None = None,
    problem_type: str | None = None,
    dtype: str = "float32",
    remat: bool = False,
    attention: str = "auto",
    unroll: int = 1,
    logits: bool = True,
) -> Model:
    """Load a model from a Hugging Face folder (`config.json` and safetensors).

    Of a sentence-transformers folder it is the encoder. Dense layers that `save_model` wrote are
    its head; others, and what they are followed by, are left out.

    A head that the checkpoint lacks is drawn from `seed`, logged and listed in
    `Model.initialized`; only that of a language model is never drawn unasked. What wrappers (torch
    parallelism and compilation, PEFT, a trainer's attribute) put before names is taken off, and
    logged. Labels given in another order than the checkpoint's reorder its outputs.

    Args:
      labels: names of the classes, in the order the logits shall have; None: the checkpoint's.
      num_labels: outputs of a new head, where `labels` is not given.
      fresh_head: draw the head even if the checkpoint has one.
      pooling: pooling as in `Options`; None: what the checkpoint's head reads, and for the bare
        encoder of a sentence-transformers folder what that says.
      head: head as in `Options`; `default`: `lm` for a decoder, else `classification`.
      problem_type: problem type as in `Options`; None: the checkpoint's, where its head is kept.
      dtype, remat, attention, unroll, logits: fields of `Options`.

    Raises:
      ModelError: no such folder, an unknown architecture, damaged or ill-fitting tensors (all
        listed), or labels that are not those of the checkpoint.
    """
    folder = Path(folder)
    refuse_adapter(folder)
    sentence = sentence_folder(folder)
    home = folder if sentence is None else sentence.encoder
    raw = read_json(home / "config.json")
    family, config = config_of(raw, home / "config.json")
    head = family.head_named(head)
    own = raw.get("jaxdistill_pooling", "default")
    if sentence is not None and sentence.pooling is not None and head is None:
        own = sentence.pooling
    options = Options(
        head=head,
        pooling=pooling or own,
        problem_type=problem_type or raw.get("problem_type"),
        dtype=dtype,
        remat=remat,
        attention=attention,
        unroll=unroll,
        logits=logits,
    )
    check_options(family, options)
    stored = open_tensors(home)
    extra = without_quantization(config.extra, stored, home)
    config = dataclasses.replace(config, extra=extra)
    stored = unwrapped(family, list(family.rules(config, options)), stored, home)
    if sentence is not None and head == "classification" and "jaxdistill_pooling" in raw:
        stored |= stored_head(family, config, options, sentence)
    config = family.settle(config, stored)
    if head == "lm":
        config = settle_tie(family, config, stored, folder)
    held = groups_held(family, config, options, stored)
    if "head" in held and not fresh_head and options.pooling != own:
        log.warning(
            "%s: its head was trained with pooling=%r, and reads %r here",
            folder,
            own,
            options.pooling,
        )
    if head == "lm" and not fresh_head:
        refuse_lost_head(folder, list(family.rules(config, options)), held, stored)
    order: list[int] | None = None
    if head == "classification":
        count = None if fresh_head else held.get("head") or None
        if count is None:  # what the config says is about a head that is not there
            options = dataclasses.replace(options, problem_type=problem_type)
        names, total, order = agree(folder, raw, labels, num_labels, count)
        options = dataclasses.replace(options, num_labels=total)
        check_options(family, options)
    else:
        names = None
        options = dataclasses.replace(options, pooler="pooler" in held)
    _, shapes, statistics, _ = abstract(family, config, options)
    wanted = flatten({"params": shapes, "model_state": statistics})
    fresh = ["head"] if fresh_head else []
    leaves, new = import_tensors(
        family, config, options, stored, wanted, where=str(folder), fresh=fresh
    )
    initialized = tuple(path.removeprefix("params/") for path in new)
    if new:
        why = "a new head as asked for" if fresh_head else "not in the checkpoint"
        log.warning("%s: %s, drawn anew: %s", folder, why, ", ".join(initialized))
    drawn = initial(family, config, options, seed, new)
    if order is not None:
        for part in ("kernel", "bias"):
            path = f"params/{family.output}/{part}"
            leaves[path] = leaves[path][..., order]
    # Taken over without a copy on CPU, where jnp.asarray makes one; elsewhere freed one by one.
    placed = {path: jax.device_put(leaves.pop(path)) for path in list(leaves)}
    return assemble(
        family,
        config,
        options,
        placed | drawn,
        labels=names,
        source=folder,
        initialized=initialized,
    )


def save_model(
    folder: str | Path,
    model: Model,
    *,
    tokenizer_from: str | Path | None = None,
    max_length: int | None = None,
    processor: Json | None = None,
    generation: Json | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model as a Hugging Face folder that `transformers` loads as it is.

    An encoder that is pooled as no model of `transformers` is becomes a sentence-transformers
    folder: `SentenceTransformer(folder).encode(texts)` gives its logits, or without a head its
    pooled vectors.

    Args:
      tokenizer_from: folder whose tokenizer and processor files are copied; None: the folder the
        model was loaded from.
      max_length: the longest row that an encoder was trained on, where its tokenizer is to cut;
        None: where that did before, at most the model's positions.
      processor: `preprocessor_config.json` of the images that the model was trained on, in place
        of a copied one.
      generation: what its `generation_config.json` says, such as the tokens that end a text; None:
        what that of the same folder says, where the model writes text and there is one.
      shard_bytes: size above which the weights are split over files.

    Raises:
      ModelError: a model of no family, parameters that do not fit it, or a folder that cannot be
        written.
    """
    if model.family is None or model.options is None:
        raise ModelError("model: got one of no family, expected one of load_model or build_model")
    family = family_named(model.family)
    source = Path(tokenizer_from) if tokenizer_from else model.source
    files = companions(source)
    if processor is not None:
        files = [file for file in files if file.name not in PROCESSORS]
    writes = model.options.head == "lm"
    if writes and generation is None and source is not None:
        files += [path for path in (source / GENERATION,) if path.is_file()]
    tokenized = modality_named(family.modality).tokenized
    if not files and tokenized:
        log.warning("%s: saved without a tokenizer; none was found in %s", folder, source)
    plain = family.standard(model.config, model.options)
    if plain is not None and pools(model.options):
        options = dataclasses.replace(model.options, pooling="default")
        model = dataclasses.replace(model, config=plain, options=options)
    assert model.options is not None
    _, shapes, statistics, _ = abstract(family, model.config, model.options)
    wanted = flatten({"params": shapes, "model_state": statistics})
    tensors = export_tensors(family, model, wanted)
    config = export_config(family, model)
    texts = tokenizer_texts(source, family, model, max_length=max_length)
    for name, content in ((PROCESSORS[0], processor), (GENERATION, generation if writes else None)):
        if content is not None:
            texts = {**texts, name: json.dumps(content, indent=2, sort_keys=True) + "\n"}
    place: dict[str, Any] = {"texts": texts, "shard_bytes": shard_bytes}
    if plain is None and tokenized:
        log.info("%s: written for sentence-transformers", folder)
        config["architectures"] = [family.architectures[None]]
        tensors, beside = lay_out(family, model, tensors, max_length or model.sizes.positions)
        place |= {"inside": ENCODER, "beside": beside}
    elif plain is None:
        log.warning("%s: transformers has no pooling=%r here", folder, model.options.pooling)
    write_folder(Path(folder), config, tensors, files, **place)


def config_of(raw: Json, path: Path) -> tuple[Family, Any]:
    """Return the family and the config that a `config.json` at `path` describes.

    Raises:
      ModelError: an unknown architecture, or values that cannot be built.
    """
    if not isinstance(raw.get("model_type"), str):
        raise ModelError(f"{path}: got no 'model_type', expected one of {sorted(family_names())}")
    try:
        family = family_named(raw["model_type"])
        fields = {f.name: f.type for f in dataclasses.fields(family.config) if f.name != "extra"}
        fields |= dict.fromkeys(family.field_aliases, "")
        # null is a value where a field may be None (no softcap), and elsewhere means the default
        optional = {name for name, kind in fields.items() if "None" in str(kind)}
        known = {k: v for k, v in raw.items() if k in fields and (v is not None or k in optional)}
        return family, config_from(family, known, raw)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def groups_held(
    family: Family, config: FamilyConfig, options: Options, stored: Mapping[str, Stored]
) -> dict[str, int]:
    """Map each group of rules that the checkpoint holds to the outputs of its last projection."""
    rules = list(family.rules(config, options))
    names = {new: old for old, new in canonical_names(family, rules, stored).items()}
    held: dict[str, int] = {}
    for rule in rules:
        if rule.group and rule.theirs in names:
            shape = stored[names[rule.theirs]].shape
            held.setdefault(rule.group, 0)
            if rule.ours == f"{family.output}/kernel" and shape:
                held[rule.group] = shape[0]
    return held
