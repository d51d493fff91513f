"""From a configuration to its parts: data, models, objective and the pieces of one training."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill import language, losses
from jaxdistill.config import Config, TrainConfig
from jaxdistill.config_terms import (
    ATTENTION_LOSSES,
    FUSED_LOSSES,
    HIDDEN_LOSSES,
    LOGIT_LOSSES,
    SUPERVISED_LOSSES,
    TASK_LOSSES,
    TermConfig,
)
from jaxdistill.data.batches import train_batches
from jaxdistill.data.dataset import Dataset, prepare
from jaxdistill.engine.objective import (
    Objective,
    Term,
    features_term,
    logits_term,
    task_term,
)
from jaxdistill.engine.optim import value_schedule
from jaxdistill.engine.stored_term import StoredLoss, stored_term, stored_tokens_term
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.inspect.checks_labels import folder_labels
from jaxdistill.models.family import assemble
from jaxdistill.models.importance import measure_importance
from jaxdistill.models.registry import Model, build_model, family_named, load_model
from jaxdistill.models.rules import flatten
from jaxdistill.models.slicing import narrow_student
from jaxdistill.models.student import student_from_teacher
from jaxdistill.teacher import codecs

log = logging.getLogger("jaxdistill")


def tokenizer_folder(config: Config) -> Path | None:
    """Return the folder whose tokenizer reads the text: the teacher's, else the student's."""
    return _folder(config.teacher.model) or _folder(config.student.model)


def load_data(config: Config, cache: Path) -> Dataset:
    """Read, tokenize and split the data of a run; label ids follow the teacher's names."""
    if config.task == language.TASK:
        return language.load_data(config, tokenizer_folder(config), cache)
    teacher, student = _folder(config.teacher.model), _folder(config.student.model)
    return prepare(
        config.data,
        task=config.task,
        tokenizer_folder=tokenizer_folder(config),
        labels=folder_labels(teacher) or folder_labels(student),
        num_labels=None,
        cache_dir=cache if config.data.cache else None,
    )


def load_teacher(config: Config, dataset: Dataset, *, training: bool, seed: int) -> Model:
    """Load or create the teacher as it is before its fine-tune."""
    train = (config.finetune if training else None) or TrainConfig(dtype=config.teacher.dtype)
    return _model(config, "teacher", config.teacher.model, train, dataset, seed)


def load_finetuned(folder: Path, config: Config, dataset: Dataset) -> Model:
    """Load a model that an earlier stage left, to teach or to be measured."""
    train = TrainConfig(dtype=config.teacher.dtype)
    return _model(config, "teacher", str(folder), train, dataset, 0)


def make_student(config: Config, dataset: Dataset, finetuned: Path | None, seed: int) -> Model:
    """Create the student that both arms of the comparison start from, for one seed."""
    student = config.student
    if not student.from_teacher:
        return _model(config, "student", student.model, config.train, dataset, seed)
    origin: Any = config.teacher.model
    if student.initialize_from == "finetuned" and finetuned is not None:
        origin = str(finetuned)
    elif not isinstance(origin, str):
        raise ConfigError(
            "student.initialize_from: got 'pretrained', but teacher.model is trained from scratch; "
            "use student.initialize_from=finetuned, or give student.model instead of student.layers"
        )
    teacher = _model(config, "student", origin, config.train, dataset, seed)
    if student.sizes:
        # The same for every seed, as the layers are.
        source = train_batches(
            dataset.train,
            batch_size=config.train.batch_size,
            seed=config.data.split_seed,
            config=config.data,
        )
        batches = itertools.islice(source, student.calibration_batches)
        teacher = narrow_student(teacher, measure_importance(teacher, batches), **student.sizes)
    if student.layers is None:
        return teacher
    layers = student.layers if isinstance(student.layers, int) else list(student.layers)
    return student_from_teacher(teacher, layers, seed=seed)


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
            shards = 1 if mesh is None else mesh.size
            whole = stored_tokens_term(stored, vocabulary=vocabulary, shards=shards)
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


def make_projections(config: Config, student: Model, teacher: Model, seed: int) -> dict[str, Any]:
    """Create the kernels for hidden-state terms between models of different widths.

    Returns `{term: {student_layer: [D_student, D_teacher]}}`, only for terms that need them.

    Raises:
      ConfigError: a layer map names a layer that a model does not have.
    """
    projections: dict[str, Any] = {}
    for name, term in config.terms.items():
        if term.loss not in HIDDEN_LOSSES + ATTENTION_LOSSES:
            continue
        layers = term.layers or {}
        for side, model, wanted in (
            ("student", student, layers.keys()),
            ("teacher", teacher, layers.values()),
        ):
            count = layer_count(model)
            wrong = [layer for layer in wanted if count is not None and not 0 <= layer < count]
            if wrong:
                raise ConfigError(
                    f"objective.{name}.layers: got {side} layer {wrong[0]}, "
                    f"expected 0 to {count - 1 if count else 0}; the {side} has {count} layers"
                )
        if term.loss not in HIDDEN_LOSSES:
            continue
        widths = _tap_widths(student, layers.keys()), _tap_widths(teacher, layers.values())
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


def with_state(model: Model) -> tuple[Callable[..., Any], Any]:
    """Return an apply function and parameters that carry a frozen model's own state along."""
    if model.model_state is None:
        return model.apply, model.params

    def apply(params: Any, batch: Any, **options: Any) -> Any:
        return model.apply(params["params"], batch, model_state=params["model_state"], **options)

    return apply, {"params": model.params, "model_state": model.model_state}


def count_parameters(params: Any) -> int:
    """Return the number of elements of a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def count_bytes(params: Any) -> int:
    """Return the bytes of a pytree."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params))


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
    if term.loss in ("mse_logits", "total_variation"):
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


def _tap_widths(model: Model, layers: Any) -> list[int]:
    taps = tuple(f"layers.{layer}.hidden" for layer in layers)
    extra = {} if model.model_state is None else {"model_state": model.model_state}
    batch = _example_batch(model)
    outputs = jax.eval_shape(
        lambda params: model.apply(params, batch, taps=taps, **extra), model.params
    )
    return [outputs.features[tap].shape[-1] for tap in taps]


def _example_batch(model: Model) -> dict[str, jax.Array]:
    size = getattr(model.config, "image_size", None)
    if hasattr(model.config, "vocab_size"):
        ids = jnp.zeros((1, 4), jnp.int32)
        return {"input_ids": ids, "attention_mask": jnp.ones_like(ids), "token_type_ids": ids}
    side = size if isinstance(size, int) else (size or (224, 224))[0]
    channels = getattr(model.config, "num_channels", 3)
    return {"images": jnp.zeros((1, side, side, channels), jnp.float32)}


def _folder(model: str | dict[str, Any] | None) -> Path | None:
    return Path(model) if isinstance(model, str) else None


def _model(
    config: Config,
    side: str,
    origin: str | dict[str, Any] | None,
    train: TrainConfig,
    dataset: Dataset,
    seed: int,
) -> Model:
    pooling = getattr(config, side).pooling
    options: dict[str, Any] = {
        "seed": seed,
        "dtype": train.dtype,
        "remat": train.remat,
    }
    if config.task == language.TASK:
        options |= {"head": "lm", "logits": config.losses == "dense"}
    elif dataset.labels is not None:
        options["labels"] = dataset.labels
    else:
        options["num_labels"] = dataset.num_labels
    if isinstance(origin, str):
        return with_dropout(load_model(origin, pooling=pooling, **options), train.dropout)
    if origin is None or "family" not in origin:
        raise ModelError(
            f"model: got {origin!r}, expected a folder or a mapping with 'family', "
            "e.g. {family: cnn, hidden_sizes: [32, 64]}"
        )
    if config.task == language.TASK:
        model = build_model(language.sized(origin, dataset), pooling=pooling, **options)
        model = language.with_tokenizer(model, dataset)
    else:
        model = build_model(_with_input_shape(origin, dataset), pooling=pooling, **options)
    return with_dropout(model, train.dropout)


def with_dropout(model: Model, rate: float | None) -> Model:
    """Set every dropout rate of a model's config."""
    if rate is None or model.family is None or model.options is None:
        return model
    names = [
        field.name
        for field in dataclasses.fields(model.config)
        if ("dropout" in field.name or "pdrop" in field.name)
        and isinstance(getattr(model.config, field.name), float)
    ]
    config = dataclasses.replace(model.config, **dict.fromkeys(names, rate))
    leaves = flatten({"params": model.params, "model_state": model.model_state})
    return assemble(
        family_named(model.family),
        config,
        model.options,
        leaves,
        labels=model.labels,
        source=model.source,
        initialized=model.initialized,
    )


def _with_input_shape(spec: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Fill in a model's input size from the data where the mapping leaves it out."""
    split, shape = dataset.train, {}
    if split.images is not None:
        height, width, channels = split.images.shape[1:]
        shape = {
            "image_size": int(height),
            "num_channels": int(channels),
            "num_features": int(height * width * channels),
        }
    elif split.features is not None:
        shape = {"num_features": int(split.features.shape[1])}
    known = {field.name for field in dataclasses.fields(family_named(spec["family"]).config)}
    return {**{name: size for name, size in shape.items() if name in known}, **spec}
