"""Checks of what shapes can say before anything is trained: layers, heads, widths, optimizers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax

from jaxdistill.config.schema import TrainConfig
from jaxdistill.data.batching.batch_source import check_parts
from jaxdistill.data.inputs.shapes import example_batch, sizes_of
from jaxdistill.doctor.findings import Check, Finding, Setup
from jaxdistill.engine.frozen import split_parameters
from jaxdistill.engine.optimizer import FREEZE, make_optimizer
from jaxdistill.errors import ConfigError, JaxDistillError
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.layer_maps import check_layers
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model
from jaxdistill.models.shrink.shapes import student_of_teacher
from jaxdistill.parallel.mesh import batch_parts, check_heads, mesh_of

_TOKENS = 4


def shapes(setup: Setup) -> Check:
    """Check that student, objective and optimizers can be built on these models."""
    faults = list(_faults(setup))
    for fault in faults:
        yield Finding("fatal", "shapes", fault)
    if not faults:
        yield Finding("ok", "shapes", "student, objective and optimizers fit these models")


def _faults(setup: Setup) -> Iterator[str]:
    """Yield what cannot be built, all of it at once."""
    config, models = setup.config, dict(setup.models)
    try:
        student = _student(setup)
    except JaxDistillError as error:
        yield str(error)
        student = None
    if student is not None:
        models["student"] = student
    stages = (("finetune", "teacher", config.finetune), ("train", "student", config.train))
    for stage, side, train in stages:
        if train is None:
            continue
        for check in (_batches, _optimizer):
            try:
                check(setup, train, models.get(side))
            except JaxDistillError as error:
                yield re.sub(r"^train\.", f"{stage}.", str(error))
    try:
        for side, model in models.items():
            check_heads(side, model.config, max(config.parallel.tensor, 1))
        if len(models) == 2:
            batch = _example(setup)
            check_layers(config, models["student"], models["teacher"], batch)
    except JaxDistillError as error:
        yield str(error)


def _student(setup: Setup) -> Model | None:
    """Return the student, or the shapes of one that is made of a teacher still to be trained."""
    student, teacher = setup.config.student, setup.teacher
    if setup.student is not None or teacher is None or not student.from_teacher:
        return setup.student
    return student_of_teacher(student, teacher)


def _batches(setup: Setup, train: TrainConfig, model: Model | None) -> None:
    mesh = mesh_of(setup.config.parallel.sizes)
    check_parts(train.batch_size, train.accumulate, batch_parts(mesh))


def _optimizer(setup: Setup, train: TrainConfig, model: Model | None) -> None:
    """Build a stage's optimizer for a model laid out as it will be."""
    if model is None:
        return
    params, axes = model.params, model.axes
    if stacking.unrolls(train.unroll) and axes is not None:
        params = jax.eval_shape(lambda params: stacking.unstack(params, axes), params)
    example = {"student": params, "projections": {}}
    optimizer = make_optimizer(train, example, 2)
    split = functools.partial(split_parameters, patterns=train.freeze, setting=FREEZE)
    trained, _ = jax.eval_shape(split, example)
    try:
        jax.eval_shape(lambda both: optimizer.update(both, optimizer.init(both), both), trained)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"train.optimizer_options: got {train.optimizer_options}: {error}"
        ) from None


def _example(setup: Setup) -> dict[str, Any]:
    """Return a batch of one example like those of the data, texts of a few tokens."""
    modality, inputs = modality_named(setup.dataset.modality), setup.dataset.train.inputs
    return example_batch(modality, 1, {**sizes_of(modality, inputs), "length": _TOKENS})
