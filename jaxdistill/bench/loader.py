"""The step of a run on batches of its loader."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import jax

from jaxdistill.bench.timing import TRACED, WARM, Timing, percentiles, timed_loader, traced
from jaxdistill.data.batching.loader import device_batches
from jaxdistill.data.dataset import Dataset
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import Trainer, make_trainer
from jaxdistill.distill.workspace import Workspace
from jaxdistill.models.registry import Model, save_model
from jaxdistill.setup.resolve import teacher_kind

_ONCE = 4096  # examples that a teacher whose outputs are kept runs over


def time_loader(
    workspace: Workspace,
    dataset: Dataset,
    steps: int,
    repeats: int,
    trace: Path | None,
    notes: list[str],
) -> Timing:
    """Time the step of a run on its data; `notes` gets what to know of the figures."""
    trainer, student = bench_trainer(workspace, dataset, notes)
    seed = workspace.config.seeds[0]
    source = trainer.make_source(seed)
    first = trainer.start(trainer.layout.lay_out(student), seed)
    state = trainer.spread(first.state)
    used = trainer.layout.used_ids
    if used is not None:
        notes.append(
            f"the run trains the {len(used):,} rows of the vocabulary that its data use; "
            "on made-up batches all are trained"
        )
    start, seen = time.perf_counter(), set()
    for number, draw in enumerate(source.draws(0)):
        if draw.shape in seen:
            continue
        seen.add(draw.shape)
        state, metrics = trainer.step(state, first.frozen, trainer.place(source[number]))
        jax.block_until_ready(metrics)
    first_seconds = time.perf_counter() - start
    count = WARM + steps * repeats + (0 if trace is None else TRACED)
    batches = device_batches(source, 0, count, place=trainer.place, prefetch=trainer.plan.prefetch)
    run = (trainer.step, state, first.frozen)
    try:
        _, state = timed_loader(*run, batches, WARM)
        times = []
        for _ in range(repeats):
            found, state = timed_loader(run[0], state, run[2], batches, steps)
            times.append(found)
        with traced(trace):
            timed_loader(run[0], state, run[2], batches, 0 if trace is None else TRACED)
    finally:
        batches.close()
    every = [step for found in times for step in found]
    infos = [step.info for step in every if step.info is not None]
    total = sum(step.seconds for step in every)
    tokens, slots = sum(info.tokens for info in infos), sum(info.slots for info in infos)
    text = dataset.train.inputs.tokenized
    return Timing(
        **percentiles(times),
        tokens_per_second=tokens / total if text else None,
        examples_per_second=sum(info.examples for info in infos) / total,
        padding=1.0 - tokens / slots if text else 0.0,
        waiting=sum(step.waiting for step in every) / total,
        first_seconds=first_seconds,
    )


def bench_trainer(
    workspace: Workspace, dataset: Dataset, notes: list[str]
) -> tuple[Trainer, Model]:
    """Make the parts of the distillation; a fine-tune that is still to come changes no time."""
    config, seed = workspace.config, workspace.config.seeds[0]
    ready = workspace.teacher_is_ready
    if ready:
        student = workspace.student(seed)
    else:
        notes.append("the teacher is not fine-tuned yet, which changes none of the times")
        with tempfile.TemporaryDirectory() as folder:
            origin = None
            if config.student.from_teacher and not isinstance(config.teacher.model, str):
                origin = Path(folder) / "model"
                teacher = build.load_teacher(config, dataset, training=True, seed=seed)
                save_model(origin, teacher, tokenizer_from=dataset.tokenizer)
            student = build.make_student(config, dataset, origin, seed)
    if workspace.cache_path is not None or ready:
        teaching = workspace.speaker
    else:
        teaching = build.load_teacher(config, dataset, training=False, seed=seed)
    train = config.train
    if teacher_kind(config) == "memory":
        fewer = min(train.examples or _ONCE, _ONCE)
        train = train.model_copy(update={"examples": max(fewer, train.batch_size)})
    trainer = make_trainer(config, train, dataset, student, stage="bench", teacher=teaching)
    return trainer, student
