"""A model as a sentence-transformers folder: an encoder, pooling, and dense layers for its head."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import WEIGHTS, Stored, open_tensors
from jaxdistill.files.safetensors_stream import Pending
from jaxdistill.files.sentence_folder import (
    MODULES,
    OLD_POOLINGS,
    POOLINGS,
    SETTINGS,
    SentenceFolder,
)
from jaxdistill.models.family import Family, FamilyConfig, Model, Options

ENCODER, POOLING = "0_Transformer", "1_Pooling"
_ACTIVATIONS = {
    None: "torch.nn.modules.linear.Identity",
    "relu": "torch.nn.modules.activation.ReLU",
    "tanh": "torch.nn.modules.activation.Tanh",
}


def stored_head(
    family: Family, config: FamilyConfig, options: Options, found: SentenceFolder
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


def _head_stems(family: Family, config: FamilyConfig, options: Options) -> list[str]:
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
      tensors: by their names in the family's classifier.
      limit: the longest row in tokens.

    Returns:
      The encoder's tensors, and the other files by their paths in the folder: texts, or tensors.
    """
    assert model.options is not None
    options, width = model.options, model.sizes.width
    stems = _head_stems(family, model.config, options) if options.head is not None else []
    acts = [family.head_activation] * (len(stems) - 1) + [None]
    pools = {name: mode == options.pooling for name, mode in _pooling_fields().items()}
    settings = {"do_lower_case": False} | ({} if limit is None else {"max_seq_length": limit})
    modules = [("Transformer", ENCODER), ("Pooling", POOLING)]
    files: dict[str, str | dict[str, Pending]] = {
        f"{ENCODER}/{SETTINGS[0]}": _json(settings),
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
    return {name: POOLINGS.get(mode, mode) for name, mode in OLD_POOLINGS.items()}


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
