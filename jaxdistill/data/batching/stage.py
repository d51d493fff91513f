"""The batches of one stage, and how many steps it takes."""

from __future__ import annotations

import dataclasses
import math

from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import BatchSource, train_batches
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.holdout import subset
from jaxdistill.data.split import take_examples
from jaxdistill.parallel.mesh import SEQUENCE, batch_parts, mesh_of


def fewer(dataset: Dataset, train_config: TrainConfig, seed: int) -> Dataset:
    """Return the dataset with the `examples` that a stage trains on, drawn once by `seed`."""
    count = train_config.examples
    if count is None or count >= len(dataset.train):
        return dataset
    rows = subset(len(dataset.train), count, seed=seed)
    return dataclasses.replace(dataset, train=take_examples(dataset.train, rows))


def stage_batches(
    config: Config, train_config: TrainConfig, dataset: Dataset, seed: int, mesh: Mesh
) -> BatchSource:
    """Return the batches that a stage trains on, in the order of `seed`."""
    return train_batches(
        dataset.train,
        batch_size=train_config.batch_size,
        seed=seed,
        config=config.data,
        accumulate=train_config.accumulate,
        shards=batch_parts(mesh),
        multiple=mesh.shape[SEQUENCE],
    )


def steps_of(train_config: TrainConfig, source: BatchSource) -> int:
    """Return the updates of a stage: as configured, else those of its epochs over `source`."""
    return train_config.steps or max(1, math.ceil(train_config.epochs * source.steps_per_epoch))


def count_steps(config: Config, train_config: TrainConfig, dataset: Dataset) -> int:
    """Return the updates of a stage, building its batches only where its epochs decide."""
    if train_config.steps is not None:
        return train_config.steps
    dataset = fewer(dataset, train_config, config.data.split_seed)
    mesh = mesh_of(config.parallel.sizes)
    return steps_of(train_config, stage_batches(config, train_config, dataset, 0, mesh))
