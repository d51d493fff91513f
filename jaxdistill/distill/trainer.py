"""One training with one seed: what fine-tune, baseline and distillation share."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import BatchSource
from jaxdistill.data.batching.stage import fewer, stage_batches, steps_of
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.data.text import used_vocabulary
from jaxdistill.distill.evaluator import make_evaluator
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.frozen import Frozen, merge_parameters
from jaxdistill.engine.hooks import Hooks, registered_hooks, tell
from jaxdistill.engine.loop import LoopPlan, LoopResult, train
from jaxdistill.engine.objective import TEACHER
from jaxdistill.engine.optimizer import learning_rate_schedule
from jaxdistill.engine.process_batch import rows_on
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.telemetry import Telemetry, say
from jaxdistill.errors import ConfigError
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.setup.assembly import Assembly, assemble
from jaxdistill.setup.facts import example_of, facts_of
from jaxdistill.setup.layout import Layout
from jaxdistill.setup.projections import make_projections
from jaxdistill.setup.resolve import kind_of_model, resolve
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache.manifest import hash_tree
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
    start: Callable[[Model, int], Start]
    make_source: Callable[[int], BatchSource]
    place: Callable[[dict[str, Any]], Any]
    gather: Callable[[Any], Any]
    spread: Callable[[Any], Any]
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Start:
    """What a seed begins with.

    Attributes:
      state: before the first step, one copy.
      frozen: as the step takes it.
      whole: the parameters of the whole student, of a state of one copy.
      frozen_hash: of the student's frozen part, by which a checkpoint knows it again, or None.
    """

    state: TrainState
    frozen: Frozen
    whole: Callable[[TrainState], Any]
    frozen_hash: str | None


def make_trainer(
    config: Config,
    train_config: TrainConfig,
    dataset: Dataset,
    model: Model,
    *,
    stage: str,
    teacher: Model | Cache | Callable[[Split], np.ndarray] | None = None,
) -> Trainer:
    """Build a stage's step, evaluation and state; with a teacher it distils.

    The teacher is a model, live or run once, what a cache holds of one, or a function that gives
    logits `[N, C]` of a split.
    """
    dataset = fewer(dataset, train_config, config.data.split_seed)
    # Before ids are renumbered: caches and functions know examples by their own.
    stored = None
    if isinstance(teacher, Cache):
        stored = targets.from_cache(teacher, dataset.train)
    elif teacher is not None and not isinstance(teacher, Model):
        stored = _spoken(teacher, dataset)
    cuts = train_config.used_vocabulary and not config.task_record.over_vocabulary
    used = used_vocabulary.used_ids(dataset) if cuts else None  # Any token may be written.
    layout = Layout(used, apart=stacking.unrolls(train_config.unroll))
    if used is not None:
        dataset = used_vocabulary.renumber(dataset, used)
    model = layout.lay_out(model)
    live = layout.lay_out(teacher) if isinstance(teacher, Model) else None
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
    if live is not None and kind_of_model(config) == "memory":
        stored, live = _outputs(config, live, dataset, mesh), None
    facts = facts_of(config, dataset)
    setup = resolve(
        config,
        train_config,
        facts,
        model,
        live if stored is None else stored,
        total_steps=total_steps,
    )
    assembly = assemble(setup, mesh)

    teachers = {} if setup.teacher is None else {TEACHER: setup.teacher.params}
    spread = functools.partial(compilation.replicate, devices=devices) if pmapped else _same
    if pmapped:
        teachers = spread(teachers)
    else:
        teachers = sharding.place(teachers, assembly.frozen_sharding.teachers)

    def start(model: Model, seed: int) -> Start:
        example = example_of(facts)
        maps = {} if live is None else make_projections(config, model, live, seed, example)
        state, own = assembly.start(model, maps, seed)
        return Start(
            state=state,
            frozen=dataclasses.replace(spread(own), teachers=teachers),
            whole=lambda state: merge_parameters(state.student, own.student),
            frozen_hash=_hash_of_frozen(assembly, model, maps),
        )

    def make_source(seed: int) -> BatchSource:
        batches = stage_batches(config, train_config, dataset, seed, mesh).only(part)
        return batches if stored is None else targets.with_targets(batches, stored)

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
    return Trainer(
        config=config,
        train_config=train_config,
        dataset=dataset,
        stage=stage,
        total_steps=total_steps,
        plan=plan,
        step=compilation.pmap_step(assembly.step, devices) if pmapped else assembly.compiled(),
        evaluate=evaluate,
        start=start,
        make_source=make_source,
        place=dict if pmapped else place,
        gather=compilation.unreplicate if pmapped else _same,
        spread=spread,
        layout=layout,
    )


def run_seed(
    trainer: Trainer,
    model: Model,
    folder: Path,
    seed: int,
    *,
    hooks: Sequence[Hooks] | None = None,
) -> tuple[Model, LoopResult]:
    """Train `model` with one seed in `folder`, resuming where it stopped.

    The hooks are those that were registered, where none are given. Returns the model that the stage
    hands on (best or last parameters) and the loop's account.
    """
    config, train_config = trainer.config, trainer.train_config
    checkpointer = Checkpointer(
        folder / "checkpoints", config.checkpoint, higher_is_better=config.higher_is_better
    )
    start = trainer.start(trainer.layout.lay_out(model), seed)

    def evaluate(state: TrainState) -> dict[str, float]:
        _, values = trainer.evaluate(
            start.whole(state), state.model_state, trainer.dataset.validation
        )
        return values

    schedule = learning_rate_schedule(train_config, trainer.total_steps)
    stage = f"{trainer.stage} seed {seed}"
    called = registered_hooks() if hooks is None else tuple(hooks)
    if jax.process_index() != 0:
        called = ()
    try:
        result = train(
            trainer.step,
            start.state,
            start.frozen,
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
                stage=stage,
                total=trainer.total_steps,
                first=first,
            ),
            learning_rate=schedule,
            frozen_hash=start.frozen_hash,
            tell=lambda moment, step, what: tell(called, moment, step, what, stage),
        )
        final = result.state
        best = result.progress.best_step
        if train_config.keep == "best" and config.checkpoint.keep_best and best is not None:
            final, _ = checkpointer.restore(final, best)
    finally:
        checkpointer.close()
    params = trainer.layout.keep(model, sharding.fetch(start.whole(final)))
    trained = dataclasses.replace(
        model, params=params, model_state=sharding.fetch(final.model_state)
    )
    return trained, result


def _same(tree: Any) -> Any:
    return tree


def _hash_of_frozen(assembly: Assembly, model: Model, maps: dict[str, Any]) -> str | None:
    """Return a hash of what a run does not train beside the teacher, None where it trains all."""
    _, frozen = assembly.split({"student": model.params, "projections": maps})
    own = (frozen.student, frozen.projections)
    return hash_tree(own) if jax.tree.leaves(own) else None


def _outputs(config: Config, teacher: Model, dataset: Dataset, mesh: Mesh) -> targets.Targets:
    """Run the teacher over the training split once."""
    evaluate = make_evaluator(config, teacher, mesh, positive=dataset.positive)
    return _spoken(lambda split: evaluate(teacher.params, teacher.model_state, split)[0], dataset)


def _spoken(speak: Callable[[Split], np.ndarray], dataset: Dataset) -> targets.Targets:
    start = time.monotonic()
    logits = speak(dataset.train)
    say(
        f"distill  the teacher ran once over {len(dataset.train):,} examples "
        f"({time.monotonic() - start:.1f} s); its logits are reused"
    )
    return targets.in_memory(logits)
