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

from jaxdistill.distill import objective as objectives
from jaxdistill.distill.setup import Setup
from jaxdistill.distill.student_texts import writing_step
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.optimizer import make_optimizer
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import TrainStep, make_train_step
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import BATCH, FSDP, TENSOR, check_heads

_TEACHER_SHARE = {"shared": (FSDP,), "wide": BATCH, "whole": ()}


@dataclasses.dataclass(frozen=True)
class Assembly:
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


def assemble(setup: Setup, mesh: Mesh) -> Assembly:
    """Make the step of a stage: with a teacher on the objective, else on the task alone.

    Args:
      setup: of `resolve`; its models may be of arrays or of shapes.
      mesh: of `make_mesh`.

    Raises:
      ConfigError: heads of the models do not divide over the mesh.
    """
    config, train, student, teaching = setup.config, setup.train, setup.student, setup.teaching
    if teaching is not None and teaching.config is not None:
        check_heads("teacher", teaching.config, mesh.shape[TENSOR])
    check_heads("student", student.config, mesh.shape[TENSOR])
    projections: dict[str, Any] = {} if teaching is None else teaching.projections
    example = {"student": student.params, "projections": projections}
    optimizer = make_optimizer(train, example, setup.total_steps)
    step = make_train_step(
        student.apply,
        optimizer,
        _objective(setup, None if config.parallel.strategy == "pmap" else mesh),
        teacher=None if teaching is None else teaching.apply,
        accumulate=train.accumulate,
        ema=train.ema,
    )
    if setup.writes is not None:
        assert config.on_policy is not None  # why the student writes
        step = writing_step(step, config.on_policy, student, setup.total_steps, **setup.writes)

    def make_state(params: Any, model_state: Any, projections: Any, key: jax.Array) -> TrainState:
        return TrainState.create(
            params,
            optimizer,
            seed=key,
            projections=projections,
            model_state=model_state,
            ema=train.ema is not None,
        )

    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    shapes = jax.eval_shape(make_state, student.params, student.model_state, projections, key)
    teacher_sharding = sharding.parameter_shardings(
        {} if teaching is None else teaching.params,
        None if teaching is None else teaching.axes,
        mesh,
        share=_TEACHER_SHARE[config.parallel.teacher],
    )
    if config.parallel.teacher_memory == "host":
        teacher_sharding = sharding.on_host(teacher_sharding)
    return Assembly(
        step=step,
        optimizer=optimizer,
        mesh=mesh,
        state_sharding=sharding.state_shardings(
            shapes, student.axes, mesh, share_params=config.parallel.share == "parameters"
        ),
        teacher_sharding=teacher_sharding,
        make_state=make_state,
    )


def _objective(setup: Setup, mesh: Mesh | None) -> Objective:
    teaching = setup.teaching
    if teaching is None:
        return objectives.supervised_objective(setup.config, mesh)
    return objectives.distillation_objective(
        setup.config,
        setup.total_steps,
        set(teaching.projections),
        teaching.codec,
        vocabulary=teaching.vocabulary,
        mesh=mesh,
    )
