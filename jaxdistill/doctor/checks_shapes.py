"""Checks of what shapes can say before anything is trained: layers, heads, widths, optimizers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from jaxdistill.config.schema import TrainConfig
from jaxdistill.data.batching.batch_source import check_parts
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.errors import ConfigError, JaxDistillError
from jaxdistill.models.abstract import with_shapes
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model
from jaxdistill.models.shrink.shapes import student_of_teacher
from jaxdistill.parallel.mesh import batch_parts, mesh_of
from jaxdistill.setup.assembly import Assembly, assemble
from jaxdistill.setup.facts import facts_of
from jaxdistill.setup.layout import Layout
from jaxdistill.setup.resolve import resolve, stored_shapes, teacher_kind


def shapes(examined: Examined) -> Check:
    """Check that every stage can be built on these models, as the run will build it."""
    faults = dict.fromkeys(_faults(examined))
    for fault in faults:
        yield Finding("fatal", "shapes", fault)
    if not faults:
        yield Finding("ok", "shapes", "student, objective and optimizers fit these models")


def _faults(examined: Examined) -> Iterator[str]:
    """Yield what cannot be built, of all stages at once."""
    config, teacher = examined.config, examined.teacher
    try:
        mesh = mesh_of(config.parallel.sizes)
    except JaxDistillError as error:
        yield str(error)
        return
    try:
        student = _student(examined)
    except JaxDistillError as error:
        yield str(error)
        student = None
    stages = (
        ("finetune", config.finetune, teacher, False),
        ("train", config.train, student, False),
        ("train", config.train, student, True),
    )
    for section, train, model, distils in stages:
        if train is None:
            continue
        for check in (_check_batches, _check_step):
            try:
                check(examined, train, model, mesh, distils)
            except JaxDistillError as error:
                yield re.sub(r"^train\.", f"{section}.", str(error))


def _student(examined: Examined) -> Model | None:
    """Return the student, or the shapes of one that is made of a teacher still to be trained."""
    student, teacher = examined.config.student, examined.teacher
    if examined.student is not None or teacher is None or not student.from_teacher:
        return examined.student
    return student_of_teacher(student, teacher)


def _check_batches(
    examined: Examined, train: TrainConfig, model: Model | None, mesh: Mesh, distils: bool
) -> None:
    check_parts(train.batch_size, train.accumulate, batch_parts(mesh))


def _check_step(
    examined: Examined, train: TrainConfig, model: Model | None, mesh: Mesh, distils: bool
) -> None:
    """Build a stage's step from shapes, and let its optimizer update them."""
    config, facts = examined.config, facts_of(examined.config, examined.dataset)
    layout = Layout(None, apart=stacking.unrolls(train.unroll))
    speaker = None
    if distils:
        teacher = None if examined.teacher is None else with_shapes(examined.teacher)
        if teacher is None and config.teacher.function is None:
            return  # A cache stands for it, which is checked where it is opened.
        if teacher is None or teacher_kind(config) != "live":
            speaker = stored_shapes(config, teacher, facts)
        else:
            speaker = layout.lay_out(teacher)
    if model is None:
        return
    student = layout.lay_out(with_shapes(model))
    assembly = assemble(resolve(config, train, facts, student, speaker), mesh)
    _check_update(assembly, train, student)


def _check_update(assembly: Assembly, train: TrainConfig, student: Model) -> None:
    """Refuse options with which the optimizer cannot update the trained part of the student."""
    trained, _ = jax.eval_shape(assembly.split, {"student": student.params, "projections": {}})
    optimizer = assembly.optimizer
    try:
        jax.eval_shape(lambda both: optimizer.update(both, optimizer.init(both), both), trained)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"train.optimizer_options: got {train.optimizer_options}: {error}"
        ) from None
