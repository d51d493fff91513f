"""Batches of a config as shapes: the data need not exist."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.inputs.shapes import batch_shapes
from jaxdistill.errors import DataError
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.registry import Model, family_named
from jaxdistill.setup.facts import Facts
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs

Batch = dict[str, jax.ShapeDtypeStruct]

RGB = 3


def batch_of(config: Config, train: TrainConfig, model: Model, facts: Facts) -> Batch:
    """Return the batch of a step: rows of `data.max_length`, the longest that a run has.

    Args:
      config: settings of the run.
      train: the settings of the stage, for the number of rows.
      model: the one that reads it.
      facts: what is known of the data.

    Raises:
      DataError: a size of the inputs is known from the data only.
    """
    rows, shape = train.batch_size, jax.ShapeDtypeStruct
    modality = modality_named(facts.modality or family_named(model.family or "").modality)
    completed = modality.sizes_of_model
    sizes = facts.sizes
    if completed is not None:
        sizes = function_of(completed)(config, model, sizes)
    batch = {**batch_shapes(modality, rows, sizes), "weight": shape((rows,), jnp.float32)}
    if config.task_record.documents:
        tokens = (rows, sizes["length"])
        labels, mask = shape(tokens, jnp.int32), shape(tokens, jnp.float32)
        return {**batch, "labels": labels, "loss_mask": mask}
    return {**batch, "labels": _label_shape(config, model, rows)}


def token_sizes(config: Config, model: Model, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Return the sizes of rows of tokens, which are as long as a model lets them be."""
    return {**sizes, "length": row_length(config, model)}


def image_sizes(config: Config, model: Model, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Return the sizes of images, the model's where only the data would give them.

    Raises:
      DataError: the model gives none either.
    """
    if sizes:
        return sizes
    if model.sizes.image is None:
        raise DataError(
            f"plan: a {model.family} without image_size reads images of a size that only the "
            "data say; give image_size in the model's mapping or data.image_size"
        )
    height, width = model.sizes.image
    channels = RGB if model.sizes.channels is None else model.sizes.channels
    return {"height": height, "width": width, "channels": channels}


def feature_sizes(config: Config, model: Model, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Return how many numbers an example has; the model's where only the data would give it."""
    width = model.sizes.features
    return sizes if sizes or width is None else {"features": width}


def row_length(config: Config, model: Model) -> int:
    """Return the tokens of a row: `data.max_length`, or the model's positions where fewer."""
    limit = model.sizes.positions
    return config.data.max_length if limit is None else min(config.data.max_length, limit)


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
