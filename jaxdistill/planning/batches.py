"""Batches of a config as shapes: the data need not exist."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.distill.facts import Facts
from jaxdistill.errors import DataError
from jaxdistill.models.registry import Model, family_named
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs

Batch = dict[str, jax.ShapeDtypeStruct]


def batch_of(config: Config, train: TrainConfig, model: Model, facts: Facts) -> Batch:
    """Return the batch of a step: rows of `data.max_length`, the longest that a run has.

    Args:
      config: of the run.
      train: the settings of the stage, for the number of rows.
      model: the one that reads it.
      facts: what the data say.

    Raises:
      DataError: the model reads neither text nor images of a known size.
    """
    rows, shape = train.batch_size, jax.ShapeDtypeStruct
    text = family_named(model.family or "").modality == "text"
    labels = _label_shape(config, model, rows)
    batch = {"labels": labels, "weight": shape((rows,), jnp.float32)}
    if config.task_record.documents:
        length = row_length(config, model)
        names = ("input_ids", "attention_mask", "segment_ids", "position_ids", "labels")
        tokens = {name: shape((rows, length), jnp.int32) for name in names}
        return batch | tokens | {"loss_mask": shape((rows, length), jnp.float32)}
    if text:
        names = ("input_ids", "attention_mask", "token_type_ids")
        size = (rows, row_length(config, model))
        return {name: shape(size, jnp.int32) for name in names} | batch
    if facts.image is not None:
        return {"images": shape((rows, *facts.image), jnp.float32)} | batch
    image = getattr(model.config, "image_size", None)
    if image is None:
        width = facts.features or getattr(model.config, "num_features", None)
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
    outputs = config.task_record.outputs
    if outputs == "decisions":
        assert model.options is not None  # of a spec or a folder
        return jax.ShapeDtypeStruct((rows, model.options.num_labels), jnp.float32)
    dtype: DTypeLike = jnp.float32 if outputs == "values" else jnp.int32
    return jax.ShapeDtypeStruct((rows,), dtype)


def stored_fields(stored: targets.Stored, batch: Batch) -> Batch:
    """Return what stored outputs add to a batch: the fields of every token or example."""
    labels = batch["labels"].shape[: 2 if "loss_mask" in batch else 1]
    return {
        targets.PREFIX + name: jax.ShapeDtypeStruct((*labels, *shape), dtype)
        for name, (dtype, shape) in codecs.layout(stored.codec, stored.width).items()
    }
