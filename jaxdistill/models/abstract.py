"""Models without weights: their parameters are shapes, to be planned and compiled with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import read_json
from jaxdistill.files.sentence_folder import encoder_folder
from jaxdistill.models.assembly import shapes_only
from jaxdistill.models.family import Model, Options, check_options, config_from
from jaxdistill.models.hub.load import config_of
from jaxdistill.models.registry import family_named
from jaxdistill.types import Tree


def abstract_model(
    origin: Mapping[str, Any] | str | Path,
    *,
    num_labels: int | None = None,
    head: str | None = "default",
    **options: Any,
) -> Model:
    """Return a model whose parameters are `jax.ShapeDtypeStruct`.

    Args:
      origin: a spec as of `build_model`, or a folder, of which only `config.json` is read.
      num_labels: outputs of a classification head; None: those of the folder's config, else 2.
      head: head as in `Options`; `default`: the family's first.
      options: further fields of `Options`.

    Raises:
      ModelError: no such folder, or what `build_model` and `load_model` refuse in a config.
    """
    if isinstance(origin, Mapping):
        if "family" not in origin:
            raise ModelError(f"model: got {dict(origin)}, expected 'family', e.g. family: qwen3")
        family = family_named(origin["family"])
        config = config_from(family, {k: v for k, v in origin.items() if k != "family"}, {})
    else:
        path = encoder_folder(Path(origin)) / "config.json"
        raw = read_json(path)
        family, config = config_of(raw, path)
        if num_labels is None and isinstance(raw.get("id2label"), dict):
            num_labels = len(raw["id2label"])
        if options.get("pooling", "default") == "default":
            options["pooling"] = raw.get("jaxdistill_pooling", "default")
    head = family.head_named(head)
    fallback = 2 if head == "classification" else 1
    chosen = Options(head, num_labels or fallback, **options)
    check_options(family, chosen)
    return shapes_only(family, config, chosen)


def shapes_of(tree: Tree) -> Tree:
    """Return a tree of arrays or shapes as `jax.ShapeDtypeStruct`, wherever they lie."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def with_shapes(model: Model) -> Model:
    """Return a model with the shapes of its parameters in their place."""
    return dataclasses.replace(
        model, params=shapes_of(model.params), model_state=shapes_of(model.model_state)
    )


def without_weights(make: Callable[[Model], Model], model: Model) -> Model:
    """Return what `make` returns for a model of shapes: traced, not computed."""
    made: list[Model] = []

    def run(params: Tree, model_state: Tree) -> Tree:
        made.append(make(dataclasses.replace(model, params=params, model_state=model_state)))
        return made[-1].params, made[-1].model_state

    params, model_state = jax.eval_shape(run, model.params, model.model_state)
    return dataclasses.replace(made[-1], params=params, model_state=model_state)
