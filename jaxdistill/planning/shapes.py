"""Models and batches of a config as shapes: neither weights nor data need to exist."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdistill.config.schema import Config, TokenizerConfig, TrainConfig
from jaxdistill.distill import language
from jaxdistill.distill.models import with_dropout
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.models.abstract import abstract_model, without_weights
from jaxdistill.models.family import shapes_only
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model, family_named
from jaxdistill.models.shrink.layers import student_from_teacher
from jaxdistill.models.shrink.width import narrowed_config
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs

log = logging.getLogger("jaxdistill")

Batch = dict[str, jax.ShapeDtypeStruct]


def teacher_of(config: Config, train: TrainConfig | None = None) -> Model:
    """Return the configured teacher without weights.

    Args:
      config: the run's.
      train: of its fine-tune; None: as it teaches.
    """
    train = train or TrainConfig(dtype=config.teacher.dtype)
    return _model(config, "teacher", config.teacher.model, train)


def student_of(config: Config) -> Model:
    """Return the configured student without weights, also one that starts from the teacher."""
    student = config.student
    if not student.from_teacher:
        return _model(config, "student", student.model, config.train)
    model = _model(config, "student", config.teacher.model, config.train)
    if student.sizes:
        assert model.family is not None  # of a spec or a folder
        assert model.options is not None
        narrow = narrowed_config(model, **student.sizes)
        model = shapes_only(family_named(model.family), narrow, model.options)
    if student.layers is None:
        return model
    layers = student.layers if isinstance(student.layers, int) else list(student.layers)
    return without_weights(lambda teacher: student_from_teacher(teacher, layers), model)


def laid_apart(model: Model) -> Model:
    """Return a model whose layers lie one by one, as they train where they are not scanned."""
    if model.axes is None:
        return model
    params = jax.eval_shape(lambda params: stacking.unstack(params, model.axes), model.params)
    return dataclasses.replace(model, params=params)


def _model(config: Config, side: str, origin: Any, train: TrainConfig) -> Model:
    options: dict[str, Any] = {
        "dtype": train.dtype,
        "remat": train.remat,
        "attention": config.parallel.attention,
        "pooling": getattr(config, side).pooling,
    }
    if config.task == language.TASK:
        options |= {"head": "lm", "logits": config.losses == "dense"}
        origin = _with_vocabulary(config, side, origin)
    else:
        options["num_labels"] = _labels(config, origin)
    model = abstract_model(origin, **options)
    if train.dropout is None:
        return model
    return without_weights(lambda whole: with_dropout(whole, train.dropout), model)


def _with_vocabulary(config: Config, side: str, origin: Any) -> Any:
    """Fill in the vocabulary of a mapping that leaves it to the data."""
    if not isinstance(origin, Mapping) or "vocab_size" in origin:
        return origin
    tokenizer = config.data.tokenizer
    if isinstance(tokenizer, TokenizerConfig):
        return {**origin, "vocab_size": tokenizer.vocabulary}
    log.warning(
        "plan: %s.model has no vocab_size and no tokenizer says it; its family's default is taken",
        side,
    )
    return origin


def _labels(config: Config, origin: Any) -> int | None:
    if config.task == "regression":
        return 1
    if config.data.labels is not None:
        return len(config.data.labels)
    if isinstance(origin, Mapping):
        known = {"digits": 10}.get(config.data.source)
        if known is None:
            log.warning("plan: data.labels is not given; two labels are taken")
        return known or 2
    return None


def batch_of(config: Config, train: TrainConfig, model: Model) -> Batch:
    """Return the batch of a step: rows of `data.max_length`, the longest that a run has.

    Args:
      config: the run's.
      train: the stage's, for the number of rows.
      model: that reads it.

    Raises:
      DataError: the model reads neither text nor images of a known size.
    """
    rows, shape = train.batch_size, jax.ShapeDtypeStruct
    text = family_named(model.family or "").modality == "text"
    labels = _label_shape(config, model, rows)
    batch = {"labels": labels, "weight": shape((rows,), jnp.float32)}
    if config.task == language.TASK:
        length = row_length(config, model)
        names = ("input_ids", "attention_mask", "segment_ids", "position_ids", "labels")
        tokens = {name: shape((rows, length), jnp.int32) for name in names}
        return batch | tokens | {"loss_mask": shape((rows, length), jnp.float32)}
    if text:
        names = ("input_ids", "attention_mask", "token_type_ids")
        size = (rows, row_length(config, model))
        return {name: shape(size, jnp.int32) for name in names} | batch
    image = getattr(model.config, "image_size", None)
    if image is None:
        width = getattr(model.config, "num_features", None)
        if width is None:
            raise DataError(
                f"plan: a {model.family} without image_size reads images of a size that only the "
                "data say; give image_size in the model's mapping or data.image_size"
            )
        return {"features": shape((rows, width), jnp.float32)} | batch
    height, width = (image, image) if isinstance(image, int) else image
    channels = getattr(model.config, "num_channels", 3)
    return {"images": shape((rows, height, width, channels), jnp.float32)} | batch


def row_length(config: Config, model: Model) -> int:
    """Return the tokens of a row: `data.max_length`, or the model's positions where fewer."""
    names = ("max_position_embeddings", "n_positions")
    limits = [getattr(model.config, name, None) for name in names]
    return min([config.data.max_length, *(limit for limit in limits if isinstance(limit, int))])


def _label_shape(config: Config, model: Model, rows: int) -> jax.ShapeDtypeStruct:
    if config.task == "multilabel":
        assert model.options is not None  # of a spec or a folder
        return jax.ShapeDtypeStruct((rows, model.options.num_labels), jnp.float32)
    dtype: DTypeLike = jnp.float32 if config.task == "regression" else jnp.int32
    return jax.ShapeDtypeStruct((rows,), dtype)


def cached_fields(codec: codecs.Codec, batch: Batch, teacher: Model) -> Batch:
    """Return what a cache adds to a batch: the stored fields of every token or example."""
    labels = batch["labels"].shape[: 2 if "loss_mask" in batch else 1]
    width = _width(codec, teacher)
    return {
        targets.PREFIX + name: jax.ShapeDtypeStruct((*labels, *shape), dtype)
        for name, (dtype, shape) in codecs.layout(codec, width).items()
    }


def _width(codec: codecs.Codec, teacher: Model) -> int:
    """Return the classes that a teacher tells apart, or its width for the codec `hidden`."""
    if isinstance(codec, codecs.Hidden):
        return teacher.config.hidden_size
    classes = getattr(teacher.config, "vocab_size", None)
    assert teacher.options is not None  # of a spec or a folder
    if teacher.options.head == "lm" and isinstance(classes, int):
        return classes
    return teacher.options.num_labels


def check_vocabulary(config: Config, student: Model, teacher: Model) -> int | None:
    """Return the number of classes where both sides pad their heads differently, else None.

    Raises:
      ConfigError: a student with more classes than its teacher, of which no tokenizer says how many
        are real.
    """
    if config.task != language.TASK:
        return None
    columns = {student.config.vocab_size, teacher.config.vocab_size}
    if len(columns) == 1:
        return None
    tokenizer = config.data.tokenizer
    real = tokenizer.vocabulary if isinstance(tokenizer, TokenizerConfig) else min(columns)
    if real > min(columns):
        raise ConfigError(
            f"data.tokenizer.vocabulary: got {real}, expected at most {min(columns)}, the smaller "
            "of both models' vocabularies"
        )
    return real
