"""A configuration to an objective: its terms, and the maps between models of different widths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill import losses
from jaxdistill.config.objective import (
    ATTENTION_LOSSES,
    FUSED_LOSSES,
    HIDDEN_LOSSES,
    LOGIT_LOSSES,
    OPTIONS,
    SUPERVISED_LOSSES,
    TASK_LOSSES,
    TermConfig,
)
from jaxdistill.config.schema import Config
from jaxdistill.distill import language
from jaxdistill.engine.objective import (
    Objective,
    Term,
    features_term,
    logits_term,
    task_term,
)
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.terms_cached import StoredLoss, stored_term, stored_tokens_term
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models.registry import Model
from jaxdistill.teachers.cache import codecs


def supervised_objective(config: Config, mesh: Mesh | None = None) -> Objective:
    """Return the task's own loss alone: what the teacher and the baseline train on.

    Args:
      mesh: of several devices that share a batch under `jit`, for losses without logits.
    """
    terms = {
        name: term.model_copy(update={"weight": 1.0})
        for name, term in config.terms.items()
        if term.loss in SUPERVISED_LOSSES
    }
    if not terms:
        terms = {"hard": TermConfig.model_validate({"loss": TASK_LOSSES[config.task]})}
    if language.fuses(config):
        return Objective(language.fused_terms(terms, 1, mesh=mesh))
    return Objective({name: _term(name, term, 1) for name, term in terms.items()})


def distillation_objective(
    config: Config,
    total_steps: int,
    projected: set[str],
    codec: codecs.Codec | None = None,
    *,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> Objective:
    """Return the configured terms; those in `projected` map widths.

    Args:
      codec: of the cache that stands for the teacher, where one does.
      vocabulary: the real number of classes, where language models pad their heads differently.
      mesh: of several devices that share a batch under `jit`, for losses without logits.
    """
    terms, fused = dict(config.terms), {}
    if language.fuses(config):
        if isinstance(codec, codecs.TopK | codecs.Sampled):
            stored = {name: _stored(term, total_steps, codec) for name, term in terms.items()}
            whole = stored_tokens_term(stored, vocabulary=vocabulary, mesh=mesh)
            fused = {language.FUSED: whole}
        else:
            fused = language.fused_terms(terms, total_steps, vocabulary=vocabulary, mesh=mesh)
        terms = {name: term for name, term in terms.items() if term.loss not in FUSED_LOSSES}
    others = {
        name: _term(
            name,
            term,
            total_steps,
            projected=name in projected,
            codec=codec,
            vocabulary=vocabulary,
        )
        for name, term in terms.items()
    }
    return Objective(fused | others)


def check_layers(
    config: Config, student: Model, teacher: Model, batch: dict[str, Any] | None = None
) -> None:
    """Check the layer maps of all terms against what both models give, by shapes alone.

    Args:
      config: a run's.
      student: its parameters may be shapes.
      teacher: the same.
      batch: what both read; by default a small one that the model itself can read.

    Raises:
      ConfigError: names a layer that a model does not have, features that its family does not give,
        or a pair of layers that cannot be compared.
    """
    for name, term in config.terms.items():
        if not term.layers:
            continue
        kind = "hidden" if term.loss in HIDDEN_LOSSES else "attention"
        found = []
        for side, model, layers in (
            ("student", student, list(term.layers.keys())),
            ("teacher", teacher, list(term.layers.values())),
        ):
            _check_range(name, side, layer_count(model), layers)
            try:
                found.append(_tap_shapes(model, layers, kind, batch))
            except ModelError as error:
                raise ConfigError(
                    f"objective.{name}.loss: got {term.loss!r}, but the {side} ({model.family}) "
                    f"gives no such features: {error}"
                ) from None
        for pair, ours, theirs in zip(term.layers.items(), *found, strict=True):
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
    told = f"objective.{name}.layers: student layer {pair[0]} gives"
    if kind == "attention" and ours[:2] != theirs[:2]:
        raise ConfigError(
            f"{told} the maps of {ours[1]} heads and teacher layer {pair[1]} of {theirs[1]}, which "
            "are compared one by one; give both as many heads, or use hidden_mse or hidden_cosine"
        )
    compared = slice(None) if kind == "attention" else slice(0, -1)
    if ours[compared] != theirs[compared]:
        raise ConfigError(
            f"{told} {list(ours[1:])} for an example and teacher layer {pair[1]} "
            f"{list(theirs[1:])}, expected the same places; pair layers of one resolution"
        )


def make_projections(config: Config, student: Model, teacher: Model, seed: int) -> dict[str, Any]:
    """Create the kernels for hidden-state terms between models of different widths.

    Returns `{term: {student_layer: [D_student, D_teacher]}}`, only for terms that need them.

    Raises:
      ConfigError: see `check_layers`.
    """
    check_layers(config, student, teacher)
    projections: dict[str, Any] = {}
    for name, term in config.terms.items():
        if term.loss not in HIDDEN_LOSSES:
            continue
        layers = term.layers or {}
        sides = (student, list(layers.keys())), (teacher, list(layers.values()))
        widths = [
            [shape[-1] for shape in _tap_shapes(model, wanted, "hidden")] for model, wanted in sides
        ]
        if widths[0] == widths[1]:
            continue
        key = jax.random.fold_in(jax.random.key(seed), len(projections))
        projections[name] = {}
        for index, layer in enumerate(layers):
            ours, theirs = widths[0][index], widths[1][index]
            scale = ours**-0.5
            kernel = scale * jax.random.normal(jax.random.fold_in(key, index), (ours, theirs))
            projections[name][str(layer)] = kernel
    return projections


def layer_count(model: Model) -> int | None:
    """Return how many layers a model's taps have, or None where its family does not say."""
    for name in ("num_hidden_layers", "depths", "hidden_sizes"):
        value = getattr(model.config, name, None)
        if value is not None:
            return value if isinstance(value, int) else len(value)
    return None


def _term(
    name: str,
    term: TermConfig,
    total_steps: int,
    *,
    projected: bool = False,
    codec: codecs.Codec | None = None,
    vocabulary: int | None = None,
) -> Term:
    function = getattr(losses, term.loss)
    if vocabulary is not None and term.loss in LOGIT_LOSSES:
        function = language.among(function, vocabulary)
    weight = value_schedule(term.weight, total_steps)
    if term.loss in SUPERVISED_LOSSES:
        options = {"label_smoothing": term.label_smoothing} if term.label_smoothing else {}
        return task_term(function, weight=weight, **options)
    if term.loss in HIDDEN_LOSSES + ATTENTION_LOSSES:
        return features_term(
            function,
            term.layers or {},
            kind="hidden" if term.loss in HIDDEN_LOSSES else "attention",
            weight=weight,
            projection=name if projected else None,
        )
    temperature = value_schedule(term.temperature, total_steps)
    options = {"beta": term.beta} if term.loss == "jsd" else {}
    if isinstance(codec, codecs.TopK | codecs.Sampled):
        return stored_term(_stored(term, total_steps, codec), vocabulary=vocabulary)
    if "temperature" not in OPTIONS[term.loss]:
        return logits_term(function, temperature=None, weight=weight)
    return logits_term(function, temperature=temperature, weight=weight, **options)


def _stored(term: TermConfig, total_steps: int, codec: codecs.TopK | codecs.Sampled) -> StoredLoss:
    """Return a term's loss of what the codec keeps; of one on labels the loss itself."""
    weight = value_schedule(term.weight, total_steps)
    if term.loss in SUPERVISED_LOSSES:
        return StoredLoss(getattr(losses, term.loss), (), weight, {})
    options: dict[str, Any] = {"temperature": codec.temperature}
    if term.loss == "jsd":
        options["beta"] = term.beta
    loss = getattr(losses, f"{codec.name}_{term.loss}")
    return StoredLoss(loss, codecs.TARGETS[codec.name]._fields, weight, options)


def _tap_shapes(
    model: Model, layers: list[int], kind: str, batch: dict[str, Any] | None = None
) -> list[tuple[int, ...]]:
    taps = tuple(f"layers.{layer}.{kind}" for layer in layers)
    extra = {} if model.model_state is None else {"model_state": model.model_state}
    batch = _example_batch(model) if batch is None else batch
    outputs = jax.eval_shape(
        lambda params: model.apply(params, batch, taps=taps, **extra), model.params
    )
    return [outputs.features[tap].shape for tap in taps]


def _example_batch(model: Model) -> dict[str, jax.Array]:
    size = getattr(model.config, "image_size", None)
    if hasattr(model.config, "vocab_size"):
        ids = jnp.zeros((1, 4), jnp.int32)
        return {"input_ids": ids, "attention_mask": jnp.ones_like(ids), "token_type_ids": ids}
    side = size if isinstance(size, int) else (size or (224, 224))[0]
    channels = getattr(model.config, "num_channels", 3)
    return {"images": jnp.zeros((1, side, side, channels), jnp.float32)}
