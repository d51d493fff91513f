"""Models from a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import (
    Stored,
    open_tensors,
    read_json,
    refuse_adapter,
)
from jaxdistill.files.sentence_folder import sentence_folder
from jaxdistill.models.assembly import abstract, assemble, initial
from jaxdistill.models.family import (
    Family,
    FamilyConfig,
    Model,
    Options,
    check_options,
    config_from,
)
from jaxdistill.models.hub.convert import (
    canonical_names,
    import_tensors,
)
from jaxdistill.models.hub.found import (
    refuse_lost_head,
    settle_tie,
    unwrapped,
    without_quantization,
)
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.hub.sentence import stored_head
from jaxdistill.models.labels import agree
from jaxdistill.models.registered import family_named, family_names
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


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
