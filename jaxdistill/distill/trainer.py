"""One training with one seed: what fine-tune, baseline and distillation share."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import BatchSource
from jaxdistill.data.batching.stage import fewer, stage_batches, steps_of
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.data.text import used_vocabulary
from jaxdistill.distill import language, student_texts
from jaxdistill.distill.assembly import Teaching, live_teaching, make_joint
from jaxdistill.distill.evaluator import make_evaluator
from jaxdistill.distill.projections import make_projections
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.loop import LoopPlan, LoopResult, train
from jaxdistill.engine.optimizer import learning_rate_schedule
from jaxdistill.engine.process_batch import rows_on
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import TrainStep
from jaxdistill.engine.telemetry import Telemetry, say
from jaxdistill.errors import ConfigError
from jaxdistill.models.layers import stacking as layout
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.teachers import targets as precomputed
from jaxdistill.teachers.cache.reader import Cache


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The compiled parts of a stage; every seed of the stage runs through the same ones."""

    config: Config
    train_config: TrainConfig
    dataset: Dataset
    stage: str
    total_steps: int
    plan: LoopPlan
    step: Callable[..., Any]
    evaluate: Callable[[Any, Any, Split], tuple[np.ndarray, dict[str, float]]]
    make_state: Callable[[Model, int], TrainState]
    make_source: Callable[[int], BatchSource]
    place: Callable[[dict[str, Any]], Any]
    gather: Callable[[Any], Any]
    spread: Callable[[Any], Any]
    teacher_params: Any
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Layout:
    """How parameters lie while they train, against how they are kept.

    Attributes:
      used_ids: the vocabulary's rows that take part; None for all.
      apart: whether layers lie one by one instead of stacked.
    """

    used_ids: np.ndarray | None
    apart: bool

    def lay_out(self, model: Model) -> Model:
        """Return the model with its parameters laid out for training."""
        params = model.params
        if model.axes is None:
            return model
        if self.used_ids is not None:
            params = used_vocabulary.cut(params, model.axes, self.used_ids)
        if self.apart:
            params = layout.unstack(params, model.axes)
        return dataclasses.replace(model, params=params)

    def keep(self, model: Model, params: Any) -> Any:
        """Return trained parameters as `model` keeps them; rows that took no part stay its own."""
        if model.axes is None:
            return params
        if self.apart:
            params = layout.restack(params, model.axes)
        if self.used_ids is None:
            return params
        whole = jax.device_get(model.params)
        return used_vocabulary.put_back(whole, params, model.axes, self.used_ids)


def make_trainer(
    config: Config,
    train_config: TrainConfig,
    dataset: Dataset,
    model: Model,
    *,
    stage: str,
    teacher: Model | Cache | None = None,
) -> Trainer:
    """Build a stage's step, evaluation and state; with a teacher, live or cached, it distils."""
    dataset = fewer(dataset, train_config, config.data.split_seed)
    targets = None
    if isinstance(teacher, Cache):
        targets = precomputed.from_cache(teacher, dataset.train)
    speaks = config.task == language.TASK  # Every token may be next: none can be left out.
    used = (
        used_vocabulary.used_ids(dataset) if train_config.used_vocabulary and not speaks else None
    )
    own = Layout(used, apart=layout.unrolls(train_config.unroll))
    if used is not None:
        dataset = used_vocabulary.renumber(dataset, used)
    with in_host_memory():
        model = own.lay_out(model)
        teacher = own.lay_out(teacher) if isinstance(teacher, Model) else None
    pmapped = config.parallel.strategy == "pmap"
    mesh = mesh_of(config.parallel.sizes)
    devices = list(mesh.devices.flat)
    part, place = rows_on(mesh)
    if pmapped and jax.process_count() > 1:
        raise ConfigError(
            f"parallel.strategy: got 'pmap' with {jax.process_count()} processes, expected 'jit'"
        )
    source = stage_batches(config, train_config, dataset, 0, mesh)
    total_steps = steps_of(train_config, source)

    def real_classes(cached: int | None) -> int | None:
        return language.real_vocabulary(dataset, cached, model, teacher) if speaks else None

    teaching = None
    if teacher is not None:
        targets = _precomputed_logits(config, teacher, dataset, mesh)
        teaching = live_teaching(config, model, teacher, mesh, vocabulary=real_classes(None))
    if targets is not None:
        teaching = Teaching(
            precomputed.make_apply(targets.codec),
            targets.head,
            precomputed.head_axes(targets.head),
            codec=targets.codec,
            vocabulary=real_classes(targets.classes),
            projections={} if teaching is None else teaching.projections,
        )

    def wrap(step: TrainStep) -> TrainStep:
        if teaching is None:
            return step
        return student_texts.with_own_texts(step, config, dataset, model, total_steps)

    joint = make_joint(
        config, train_config, model, teaching, mesh, total_steps=total_steps, wrap=wrap
    )

    def make_state(model: Model, seed: int) -> TrainState:
        maps = {} if teacher is None else make_projections(config, model, teacher, seed)
        return joint.start(model, maps, seed)

    def make_source(seed: int) -> BatchSource:
        batches = stage_batches(config, train_config, dataset, seed, mesh).only(part)
        return batches if targets is None else precomputed.with_targets(batches, targets)

    evaluate = make_evaluator(config, model, mesh, positive=dataset.positive)
    every = train_config.evaluate_every or source.steps_per_epoch
    plan = LoopPlan(
        total_steps=total_steps,
        evaluate_every=every,
        log_every=config.telemetry.log_every,
        checkpoint_every=config.checkpoint.every,
        checkpoint_seconds=config.checkpoint.every_seconds,
        checkpoint_evaluations=train_config.keep == "best",
        early_stopping=train_config.early_stopping,
        metric=config.ranking_metric,
        higher_is_better=config.higher_is_better,
        prefetch=config.data.prefetch,
    )
    teacher_params = {} if teaching is None else teaching.params
    return Trainer(
        config=config,
        train_config=train_config,
        dataset=dataset,
        stage=stage,
        total_steps=total_steps,
        plan=plan,
        step=compilation.pmap_step(joint.step, devices) if pmapped else joint.compiled(),
        evaluate=evaluate,
        make_state=make_state,
        make_source=make_source,
        place=dict if pmapped else place,
        gather=compilation.unreplicate if pmapped else lambda state: state,
        spread=functools.partial(compilation.replicate, devices=devices)
        if pmapped
        else lambda state: state,
        teacher_params=compilation.replicate(teacher_params, devices)
        if pmapped
        else sharding.place(teacher_params, joint.teacher_sharding),
        layout=own,
    )


def run_seed(trainer: Trainer, model: Model, folder: Path, seed: int) -> tuple[Model, LoopResult]:
    """Train `model` with one seed in `folder`, resuming where it stopped.

    Returns the model that the stage hands on (best or last parameters) and the loop's account.
    """
    config, train_config = trainer.config, trainer.train_config
    checkpointer = Checkpointer(
        folder / "checkpoints", config.checkpoint, higher_is_better=config.higher_is_better
    )
    state = trainer.make_state(trainer.layout.lay_out(model), seed)

    def evaluate(state: TrainState) -> dict[str, float]:
        _, values = trainer.evaluate(state.student, state.model_state, trainer.dataset.validation)
        return values

    schedule = learning_rate_schedule(train_config, trainer.total_steps)
    try:
        result = train(
            trainer.step,
            state,
            trainer.teacher_params,
            trainer.make_source(seed),
            plan=trainer.plan,
            place=trainer.place,
            gather=trainer.gather,
            spread=trainer.spread,
            evaluate=evaluate,
            checkpointer=checkpointer,
            telemetry=lambda first: Telemetry(
                folder,
                config.telemetry,
                stage=f"{trainer.stage} seed {seed}",
                total=trainer.total_steps,
                first=first,
            ),
            learning_rate=schedule,
        )
        final = result.state
        best = result.progress.best_step
        if train_config.keep == "best" and config.checkpoint.keep_best and best is not None:
            final, _ = checkpointer.restore(final, best)
    finally:
        checkpointer.close()
    params = trainer.layout.keep(model, sharding.fetch(final.student))
    trained = dataclasses.replace(
        model, params=params, model_state=sharding.fetch(final.model_state)
    )
    return trained, result


def _precomputed_logits(
    config: Config, teacher: Model, dataset: Dataset, mesh: Any
) -> precomputed.Targets | None:
    """Run the teacher over the training split once, unless the configuration needs it live."""
    wanted, reason = config.teacher.precompute, precomputed.obstacle(config)
    if reason is None and config.task == language.TASK:
        reason = "a language model says too much to be kept in memory (a cache is for that)"
    if wanted is False:
        return None
    if reason is not None:
        if wanted:
            raise ConfigError(
                f"teacher.precompute: got true, but {reason}; use teacher.precompute=false"
            )
        return None
    start = time.monotonic()
    evaluate = make_evaluator(config, teacher, mesh, positive=dataset.positive)
    logits, _ = evaluate(teacher.params, teacher.model_state, dataset.train)
    say(
        f"distill  the teacher ran once over {len(dataset.train):,} examples "
        f"({time.monotonic() - start:.1f} s); its logits are reused"
    )
    return precomputed.in_memory(logits)
