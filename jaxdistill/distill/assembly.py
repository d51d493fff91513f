"""The step of a training, of student and teacher together, and how it lies on a mesh.

Made from models alone, of arrays or of their shapes: what trains, what is planned for devices that
are not there, and what is timed is one and the same program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.distill import models as build
from jaxdistill.distill import objective as objectives
from jaxdistill.distill.projections import make_projections
from jaxdistill.engine.optimizer import make_optimizer
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import TrainStep, make_train_step
from jaxdistill.models.frozen import called_from_host, keep_frozen
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.parallel.mesh import BATCH, FSDP, TENSOR, check_heads
from jaxdistill.teachers.cache import codecs

_TEACHER_SHARE = {"shared": (FSDP,), "wide": BATCH, "whole": ()}


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What stands for the teacher in a step.

    Attributes:
      apply: a live model's, or that of what a cache holds.
      params: its parameters, or their shapes.
      axes: their logical axes; None where they have no names.
      codec: of the cache; None for a live model.
      vocabulary: the real number of classes, where heads are padded differently.
      projections: kernels between widths by term, or their shapes.
    """

    apply: Callable[..., Any]
    params: Any
    axes: Any = None
    codec: codecs.Codec | None = None
    vocabulary: int | None = None
    projections: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Joint:
    """A step, the optimizer in it, and where everything lies.

    Attributes:
      step: pure and unjitted.
      optimizer: over `{"student": …, "projections": …}`.
      mesh: the devices.
      state_sharding: of every array of the state.
      teacher_sharding: of every parameter of the teacher.
      make_state: `(student_params, model_state, projections, seed) -> TrainState`, traceable.
    """

    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: Mesh
    state_sharding: Any
    teacher_sharding: Any
    make_state: Callable[..., TrainState]

    def compiled(self) -> Callable[..., Any]:
        """Return the step under `jit`, its state donated."""
        return compilation.compile_step(
            self.step,
            self.mesh,
            state_sharding=self.state_sharding,
            teacher_sharding=self.teacher_sharding,
        )

    def start(self, student: Model, projections: dict[str, Any], seed: int) -> TrainState:
        """Return the first state of a run, every array where it belongs."""
        placed = sharding.place(student.params, self.state_sharding.params["student"])
        maps = sharding.place(projections, self.state_sharding.params["projections"])
        whole = sharding.replicated(self.mesh)
        state = sharding.place(student.model_state, whole)
        key = sharding.place(jax.random.key(seed), whole)
        make = jax.jit(self.make_state, out_shardings=self.state_sharding)
        return make(placed, state, maps, key)


def make_joint(
    config: Config,
    train_config: TrainConfig,
    student: Model,
    teaching: Teaching | None,
    mesh: Mesh,
    *,
    total_steps: int,
    wrap: Callable[[TrainStep], TrainStep] = lambda step: step,
) -> Joint:
    """Make the step that trains `student`: with a teacher on the objective, else on the task alone.

    Args:
      config: the run's.
      train_config: the stage's.
      student: as it is laid out for training; its parameters may be shapes.
      teaching: None for a fine-tune or a baseline.
      mesh: of `make_mesh`.
      total_steps: of the stage, for its schedules.
      wrap: what else belongs to a step, as texts of the student's own.

    Raises:
      ConfigError: the student's heads do not divide over the mesh.
    """
    check_heads("student", student.config, mesh.shape[TENSOR])
    pmapped = config.parallel.strategy == "pmap"
    spread = None if pmapped else mesh
    projections: dict[str, Any] = {} if teaching is None else teaching.projections
    if teaching is None:
        objective = objectives.supervised_objective(config, spread)
    else:
        objective = objectives.distillation_objective(
            config,
            total_steps,
            set(projections),
            teaching.codec,
            vocabulary=teaching.vocabulary,
            mesh=spread,
        )
    example = {"student": student.params, "projections": projections}
    optimizer = make_optimizer(train_config, example, total_steps)
    step = make_train_step(
        student.apply,
        optimizer,
        objective,
        teacher=None if teaching is None else teaching.apply,
        accumulate=train_config.accumulate,
        ema=train_config.ema,
    )

    def make_state(params: Any, model_state: Any, projections: Any, key: jax.Array) -> TrainState:
        return TrainState.create(
            params,
            optimizer,
            seed=key,
            projections=projections,
            model_state=model_state,
            ema=train_config.ema is not None,
        )

    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    shapes = jax.eval_shape(make_state, student.params, student.model_state, projections, key)
    params = {} if teaching is None else teaching.params
    teacher_sharding = sharding.parameter_shardings(
        params,
        None if teaching is None else teaching.axes,
        mesh,
        share=_TEACHER_SHARE[config.parallel.teacher],
    )
    if config.parallel.teacher_memory == "host":
        teacher_sharding = sharding.on_host(teacher_sharding)
    return Joint(
        step=wrap(step),
        optimizer=optimizer,
        mesh=mesh,
        state_sharding=sharding.state_shardings(
            shapes, student.axes, mesh, share_params=config.parallel.share == "parameters"
        ),
        teacher_sharding=teacher_sharding,
        make_state=make_state,
    )


def live_teaching(
    config: Config,
    student: Model,
    teacher: Model,
    mesh: Mesh,
    *,
    vocabulary: int | None = None,
    seed: int = 0,
) -> Teaching:
    """Let a model teach, its parameters kept as the configuration says.

    Raises:
      ConfigError: its heads do not divide over the mesh.
    """
    check_heads("teacher", teacher.config, mesh.shape[TENSOR])
    projections = make_projections(config, student, teacher, seed)
    with in_host_memory():
        teacher = keep_frozen(teacher, config.teacher.storage)
    apply, params = build.with_state(teacher)
    if config.parallel.teacher_memory == "host":
        apply = called_from_host(apply)
    axes = teacher.axes
    if teacher.model_state is not None and axes is not None:
        unnamed = jax.tree.map(lambda leaf: (None,) * len(leaf.shape), teacher.model_state)
        axes = {"params": axes, "model_state": unnamed}
    return Teaching(
        apply,
        params,
        axes,
        vocabulary=vocabulary,
        projections=projections,
    )
