"""Model families by name, and models from a spec or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.errors import ModelError
from jaxdistill.models.assembly import abstract, assemble, initial
from jaxdistill.models.family import (
    Apply,
    Family,
    Model,
    Options,
    check_options,
    config_from,
)
from jaxdistill.models.hub.load import load_model
from jaxdistill.models.hub.rules import Rule, flatten
from jaxdistill.models.hub.save import save_model
from jaxdistill.models.labels import count_labels
from jaxdistill.models.registered import families, family_named, family_names

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
