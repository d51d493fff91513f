"""One training with one seed: what fine-tune, baseline and distillation share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import BatchSource
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.distill.evaluator import make_evaluator
from jaxdistill.distill.stage_data import Speaker, stage_data
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.frozen import Frozen, merge_parameters
from jaxdistill.engine.hooks import Hooks, registered_hooks, tell
from jaxdistill.engine.loop import LoopPlan, LoopResult, train
from jaxdistill.engine.objective import TEACHER
from jaxdistill.engine.optimizer import learning_rate_schedule
from jaxdistill.engine.process_batch import rows_on
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.telemetry import Telemetry
from jaxdistill.errors import ConfigError
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.setup.assembly import Assembly, assemble
from jaxdistill.setup.facts import facts_of
from jaxdistill.setup.layout import Layout
from jaxdistill.setup.resolve import resolve
from jaxdistill.teachers.cache.manifest import hash_tree


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
      state: State before the first step, in one copy.
      frozen: Frozen parameters, laid out for the step.
      whole: Function that gives the whole student's parameters from a state of one copy.
      frozen_hash: Hash of the frozen part, by which a checkpoint knows it again, or None.
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
    teacher: Speaker | None = None,
) -> Trainer:
    """Build a stage's step, evaluation and state; with a teacher it distils.

    Raises:
      ConfigError: what the stage cannot be assembled from.
    """
    pmapped = config.parallel.strategy == "pmap"
    if pmapped and jax.process_count() > 1:
        raise ConfigError(
            f"parallel.strategy: got 'pmap' with {jax.process_count()} processes, expected 'jit'"
        )
    mesh = mesh_of(config.parallel.sizes)
    part, place = rows_on(mesh)
    data = stage_data(config, train_config, dataset, model, teacher, mesh)
    facts, total_steps = facts_of(config, data.dataset), data.total_steps
    setup = resolve(
        config, train_config, facts, data.student, data.teacher, total_steps=total_steps
    )
    assembly = assemble(setup, mesh)

    devices = list(mesh.devices.flat)
    teachers = {} if setup.teacher is None else {TEACHER: setup.teacher.params}
    spread = functools.partial(compilation.replicate, devices=devices) if pmapped else _same
    if pmapped:
        teachers = spread(teachers)
    else:
        teachers = sharding.place(teachers, assembly.frozen_sharding.teachers)

    def start(model: Model, seed: int) -> Start:
        state, frozen = assembly.start(model, seed)
        return Start(
            state=state,
            frozen=dataclasses.replace(spread(frozen), teachers=teachers),
            whole=lambda state: merge_parameters(state.student, frozen.student),
            frozen_hash=_hash_of_frozen(assembly, model, seed),
        )

    plan = LoopPlan(
        total_steps=total_steps,
        evaluate_every=train_config.evaluate_every or data.steps_per_epoch,
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
        dataset=data.dataset,
        stage=stage,
        total_steps=total_steps,
        plan=plan,
        step=compilation.pmap_step(assembly.step, devices) if pmapped else assembly.compiled(),
        evaluate=make_evaluator(config, data.student, mesh, positive=dataset.positive),
        start=start,
        make_source=lambda seed: data.batches(seed).only(part),
        place=dict if pmapped else place,
        gather=compilation.unreplicate if pmapped else _same,
        spread=spread,
        layout=data.layout,
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


def _hash_of_frozen(assembly: Assembly, model: Model, seed: int) -> str | None:
    """Return a hash of what a run does not train beside the teacher, None where it trains all."""
    _, frozen = assembly.first(model, seed)
    frozen_parts = (frozen.student, frozen.projections)
    return hash_tree(frozen_parts) if jax.tree.leaves(frozen_parts) else None
