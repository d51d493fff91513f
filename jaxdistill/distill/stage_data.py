"""What one training reads: its examples, what a teacher has said of them, and how models lie."""

from __future__ import annotations

import dataclasses
import functools
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
      steps_per_epoch: Updates of an epoch, the same for every seed.
      total_steps: Updates of the stage.
    """

    dataset: Dataset
    layout: Layout
    student: Model
    teacher: Model | targets.Targets | None
    batches: Callable[[int], BatchSource]
    steps_per_epoch: int
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
    known = fewer(dataset, train, config.data.split_seed)
    cuts = train.used_vocabulary and not config.task_record.over_vocabulary
    used = used_vocabulary.used_ids(known) if cuts else None  # Any token may be written.
    layout = Layout(used, apart=stacking.unrolls(train.unroll))
    dataset = known if used is None else used_vocabulary.renumber(known, used)
    # Before a teacher is asked, which takes long: batches may not divide over the devices.
    first = stage_batches(config, train, dataset, 0, mesh)
    speaker = layout.lay_out(teacher) if isinstance(teacher, Model) else None
    # Caches and functions know examples by the ids that they had before.
    if isinstance(teacher, Cache):
        speaker = targets.from_cache(teacher, known.train)
    elif teacher is not None and not isinstance(teacher, Model):
        speaker = _asked_once(teacher, known)
    elif speaker is not None and kind_of_model(config) == "memory":
        evaluate = make_evaluator(config, speaker, mesh, positive=dataset.positive)
        speak = functools.partial(evaluate, speaker.params, speaker.model_state)
        speaker = _asked_once(lambda split: speak(split)[0], dataset)

    def batches(seed: int) -> BatchSource:
        source = stage_batches(config, train, dataset, seed, mesh)
        if isinstance(speaker, targets.Targets):
            return targets.with_targets(source, speaker)
        return source

    return StageData(
        dataset,
        layout,
        student=layout.lay_out(student),
        teacher=speaker,
        batches=batches,
        steps_per_epoch=first.steps_per_epoch,
        total_steps=steps_of(train, first),
    )


def _asked_once(speak: Callable[[Split], np.ndarray], dataset: Dataset) -> targets.Targets:
    start = time.monotonic()
    logits = speak(dataset.train)
    say(
        f"distill  the teacher ran once over {len(dataset.train):,} examples "
        f"({time.monotonic() - start:.1f} s); its logits are reused"
    )
    return targets.in_memory(logits)
