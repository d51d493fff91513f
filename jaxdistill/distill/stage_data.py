"""What one training reads: its examples, what a teacher has said of them, and how models lie."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import BatchSource
from jaxdistill.data.batching.stage import fewer, stage_batches, steps_of
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.data.text import used_vocabulary
from jaxdistill.distill.evaluator import make_evaluator
from jaxdistill.engine.telemetry import say
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model
from jaxdistill.setup.layout import Layout
from jaxdistill.setup.resolve import kind_of_model
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache.reader import Cache

Speaker = Model | Cache | Callable[[Split], np.ndarray]
"""Who teaches: a model, live or run once, a cache of one, or a function that gives logits `[N, C]`
of a split."""


@dataclasses.dataclass(frozen=True)
class StageData:
    """What a stage trains on, and the models as they lie while it does.

    Attributes:
      dataset: Examples of the stage, renumbered where few of the vocabulary's tokens take part.
      layout: Way in which parameters lie.
      student: Model that is trained, laid out.
      teacher: Model that runs in every step, laid out, or what one gave before; None without one.
      batches: `(seed) -> BatchSource`, with the stored outputs of a teacher in every batch.
      total_steps: Updates of the stage.
    """

    dataset: Dataset
    layout: Layout
    student: Model
    teacher: Model | targets.Targets | None
    batches: Callable[[int], BatchSource]
    total_steps: int


def stage_data(
    config: Config,
    train: TrainConfig,
    dataset: Dataset,
    student: Model,
    teacher: Speaker | None,
    mesh: Mesh,
) -> StageData:
    """Prepare the data of a stage, and let a teacher that is asked only once speak of them."""
    dataset = fewer(dataset, train, config.data.split_seed)
    # Before ids are renumbered: caches and functions know examples by their own.
    stored = None
    if isinstance(teacher, Cache):
        stored = targets.from_cache(teacher, dataset.train)
    elif teacher is not None and not isinstance(teacher, Model):
        stored = _asked_once(teacher, dataset)
    cuts = train.used_vocabulary and not config.task_record.over_vocabulary
    used = used_vocabulary.used_ids(dataset) if cuts else None  # Any token may be written.
    layout = Layout(used, apart=stacking.unrolls(train.unroll))
    if used is not None:
        dataset = used_vocabulary.renumber(dataset, used)
    live = layout.lay_out(teacher) if isinstance(teacher, Model) else None
    if live is not None and kind_of_model(config) == "memory":
        evaluate = make_evaluator(config, live, mesh, positive=dataset.positive)
        stored = _asked_once(
            lambda split: evaluate(live.params, live.model_state, split)[0], dataset
        )

    def batches(seed: int) -> BatchSource:
        source = stage_batches(config, train, dataset, seed, mesh)
        return source if stored is None else targets.with_targets(source, stored)

    return StageData(
        dataset,
        layout,
        layout.lay_out(student),
        live if stored is None else stored,
        batches,
        steps_of(train, batches(0)),
    )


def _asked_once(speak: Callable[[Split], np.ndarray], dataset: Dataset) -> targets.Targets:
    start = time.monotonic()
    logits = speak(dataset.train)
    say(
        f"distill  the teacher ran once over {len(dataset.train):,} examples "
        f"({time.monotonic() - start:.1f} s); its logits are reused"
    )
    return targets.in_memory(logits)
