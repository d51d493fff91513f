"""Model families by name, and models from a spec or a Hugging Face folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.family import (
    Apply,
    Family,
    Model,
    Options,
    abstract,
    assemble,
    config_from,
    count_labels,
    initial,
    make_options,
)
from jaxdistill.models.rules import Rule, flatten

__all__ = [
    "Apply",
    "Family",
    "Model",
    "Options",
    "Rule",
    "build_model",
    "families",
    "family_named",
]

# Family name, or another `model_type` of Hugging Face configs -> the module that declares it.
_MODULES = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "distilbert": "distilbert",
    "mobilebert": "mobilebert",
    "vit": "vit",
    "resnet": "resnet",
    "mlp": "small",
    "cnn": "small",
}


def family_named(name: str) -> Family:
    """Return the family of that name or Hugging Face `model_type`.

    Raises:
      ModelError: no such family.
    """
    if name not in _MODULES:
        raise ModelError(
            f"model family: got {name!r}, expected one of {sorted(_MODULES)}."
            f"{did_you_mean(str(name), _MODULES)}"
        )
    module = importlib.import_module(f"jaxdistill.models.{_MODULES[name]}")
    found = [f for f in module.FAMILIES if name == f.name or name in f.model_types]
    return found[0]


def families() -> dict[str, Family]:
    """Return every family by name."""
    every = (family_named(name) for name in _MODULES)
    return {family.name: family for family in every}


def build_model(
    spec: Mapping[str, Any],
    *,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    head: str | None = "classification",
    seed: int = 0,
    **options: Any,
) -> Model:
    """Build a model with fresh parameters from a spec such as `{"family": "bert", ...}`.

    Args:
      spec: the family and fields of its Hugging Face config; what is absent keeps its default.
      num_labels: outputs of a classification head, or give `labels`.
      labels: names of the classes in the order of the logits.
      head: `classification`, `masked_lm` or None.
      seed: of the parameters.
      options: further fields of `Options`: `pooling`, `dtype`, `remat`, `unroll`, `problem_type`.

    Raises:
      ModelError: an unknown family, field or option, or no number of labels.
    """
    if "family" not in spec:
        raise ModelError(f"model: got {dict(spec)}, expected 'family', one of {sorted(_MODULES)}")
    family = family_named(spec["family"])
    config = config_from(family, {k: v for k, v in spec.items() if k != "family"}, {})
    chosen = make_options(
        family, head=head, num_labels=count_labels(head, num_labels, labels), **options
    )
    _, shapes, statistics, _ = abstract(family, config, chosen)
    paths = list(flatten({"params": shapes, "model_state": statistics or {}}))
    return assemble(
        family,
        config,
        chosen,
        initial(family, config, chosen, seed, paths),
        labels=None if labels is None else tuple(labels),
        initialized=tuple(sorted(flatten(shapes))),
    )
