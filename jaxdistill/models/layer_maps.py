"""Maps between the layers of a student and a teacher, checked by shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxdistill.config.schema import Config
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models.registry import Model


def check_layers(
    config: Config, student: Model, teacher: Model, batch: Mapping[str, jax.Array] | None = None
) -> None:
    """Check the layer maps of all terms against what both models give, by shapes alone.

    Args:
      config: a run's.
      student: the student; parameters may be shapes.
      teacher: the teacher; parameters may be shapes.
      batch: what both read; by default a small one that the model itself can read.

    Raises:
      ConfigError: names a layer that a model does not have, features that its family does not give,
        or a pair of layers that cannot be compared.
    """
    for name, term in config.terms.items():
        if not term.method.reads_layers:
            continue
        kind, pairs = term.method.reads, term.options["layers"]
        found = []
        for side, model, layers in (
            ("student", student, list(pairs.keys())),
            ("teacher", teacher, list(pairs.values())),
        ):
            _check_range(name, side, layer_count(model), layers)
            try:
                found.append(tap_shapes(model, layers, kind, batch))
            except ModelError as error:
                raise ConfigError(
                    f"objective.{name}.loss: got {term.loss!r}, but the {side} ({model.family}) "
                    f"gives no such features: {error}"
                ) from None
        for pair, ours, theirs in zip(pairs.items(), *found, strict=True):
            _check_pair(name, kind, pair, ours, theirs)


def _check_range(name: str, side: str, count: int | None, layers: list[int]) -> None:
    wrong = [layer for layer in layers if count is not None and not 0 <= layer < count]
    if wrong:
        raise ConfigError(
            f"objective.{name}.layers: got {side} layer {wrong[0]}, "
            f"expected 0 to {count - 1 if count else 0}; the {side} has {count} layers"
        )


def _check_pair(
    name: str, kind: str, pair: tuple[int, int], ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    place = f"objective.{name}.layers: student layer {pair[0]} gives"
    if kind == "attention" and ours[:2] != theirs[:2]:
        raise ConfigError(
            f"{place} the maps of {ours[1]} heads and teacher layer {pair[1]} of {theirs[1]}, "
            "which are compared one by one; give both as many heads, or use hidden_mse or "
            "hidden_cosine"
        )
    compared = slice(None) if kind == "attention" else slice(0, -1)
    if ours[compared] != theirs[compared]:
        raise ConfigError(
            f"{place} {list(ours[1:])} for an example and teacher layer {pair[1]} "
            f"{list(theirs[1:])}, expected the same places; pair layers of one resolution"
        )


def layer_count(model: Model) -> int | None:
    """Return how many layers a model's taps have, or None where its family does not say."""
    return model.sizes.layers


def tap_shapes(
    model: Model, layers: list[int], kind: str, batch: Mapping[str, jax.Array] | None = None
) -> list[tuple[int, ...]]:
    """Return the shapes of the `hidden` states or `attention` maps of layers, for a small batch."""
    taps = tuple(f"layers.{layer}.{kind}" for layer in layers)
    extra = {} if model.model_state is None else {"model_state": model.model_state}
    batch = _example_batch(model) if batch is None else batch
    outputs = jax.eval_shape(
        lambda params: model.apply(params, batch, taps=taps, **extra), model.params
    )
    return [outputs.features[tap].shape for tap in taps]


def _example_batch(model: Model) -> dict[str, jax.Array]:
    sizes = model.sizes
    if sizes.vocabulary is not None:
        ids = jnp.zeros((1, 4), jnp.int32)
        return {"input_ids": ids, "attention_mask": jnp.ones_like(ids), "token_type_ids": ids}
    height, width = sizes.image or (224, 224)
    channels = 3 if sizes.channels is None else sizes.channels
    return {"images": jnp.zeros((1, height, width, channels), jnp.float32)}
