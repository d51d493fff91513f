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

from jaxdistill.engine.frozen import Frozen, split_parameters
from jaxdistill.engine.objective import TEACHER
from jaxdistill.engine.optimizer import FREEZE, make_optimizer
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import TrainStep, make_train_step
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import BATCH, FSDP, TENSOR, check_heads
from jaxdistill.setup.resolve import Setup

_TEACHER_SHARE = {"shared": (FSDP,), "wide": BATCH, "whole": ()}


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A step, the optimizer in it, and where everything lies.

    Attributes:
      step: Step of the training, pure and unjitted.
      optimizer: Optimizer of the trained part of `{"student": …, "projections": …}`.
      mesh: Devices that share the step.
      state_sharding: Sharding of every array of the state.
      frozen_sharding: Sharding of every array of what is frozen.
      make_projections: `(student, seed) -> maps` that are trained beside the student, by term.
      make_state: `(trained_params, model_state, method_state, key) -> TrainState`, traceable.
      method_state: Values that terms carry from step to step, before the first, or None.
      split: Function that parts all parameters, of arrays or shapes, into those that are trained
        and `Frozen` without its teachers.
    """

    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: Mesh
    state_sharding: Any
    frozen_sharding: Frozen
    make_projections: Callable[[Model, int], dict[str, Any]]
    make_state: Callable[..., TrainState]
    method_state: Any
    split: Callable[[dict[str, Any]], tuple[dict[str, Any], Frozen]]

    def compiled(self) -> Callable[..., Any]:
        """Return the step under `jit`, its state donated."""
        return compilation.compile_step(
            self.step,
            self.mesh,
            state_sharding=self.state_sharding,
            frozen_sharding=self.frozen_sharding,
        )

    def first(self, student: Model, seed: int) -> tuple[dict[str, Any], Frozen]:
        """Return the parameters that a run begins with: the trained ones, and those it keeps."""
        maps = self.make_projections(student, seed)
        return self.split({"student": student.params, "projections": maps})

    def start(self, student: Model, seed: int) -> tuple[TrainState, Frozen]:
        """Return the first state of a run and, without teachers, what it does not train.

        Every array is where it belongs.
        """
        trained, frozen = self.first(student, seed)
        placed = sharding.place(trained, self.state_sharding.params)
        whole = sharding.replicated(self.mesh)
        carried = sharding.place((student.model_state, self.method_state), whole)
        key = sharding.place(jax.random.key(seed), whole)
        make = jax.jit(self.make_state, out_shardings=self.state_sharding)
        own = dataclasses.replace(self.frozen_sharding, teachers={})
        return make(placed, *carried, key), sharding.place(frozen, own)


def assemble(setup: Setup, mesh: Mesh) -> Assembly:
    """Make the step of a stage: with a teacher on the objective, else on the task alone.

    Args:
      setup: What the stage is made of, as `resolve` returns it; models may be of arrays or shapes.
      mesh: Devices, as `make_mesh` lays them out.

    Raises:
      ConfigError: heads of the models do not divide over the mesh.
    """
    train, layout, student, teacher = setup.train, setup.parallel, setup.student, setup.teacher
    if teacher is not None and teacher.config is not None:
        check_heads("teacher", teacher.config, mesh.shape[TENSOR])
    check_heads(setup.side, student.config, mesh.shape[TENSOR])
    objective = setup.objective(mesh=None if layout.strategy == "pmap" else mesh)
    example = {"student": student.params, "projections": setup.projections}
    optimizer = make_optimizer(train, example, setup.total_steps)
    step = make_train_step(
        student.apply,
        optimizer,
        objective,
        teacher=None if teacher is None else teacher.apply,
        accumulate=train.accumulate,
        ema=train.ema,
    )
    if setup.writes is not None:
        step = setup.writes(step)

    def make_state(params: Any, model_state: Any, method_state: Any, key: jax.Array) -> TrainState:
        return TrainState.create(
            params["student"],
            optimizer,
            seed=key,
            projections=params["projections"],
            model_state=model_state,
            ema=train.ema is not None,
            method_state=method_state,
        )

    def split(params: dict[str, Any]) -> tuple[dict[str, Any], Frozen]:
        trained, frozen = split_parameters(params, train.freeze, setting=FREEZE)
        return trained, Frozen(**(frozen or {}))

    trained, frozen = jax.eval_shape(split, example)
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    state = jax.eval_shape(make_state, trained, student.model_state, setup.method_state, key)
    share_params = layout.share == "parameters"
    teacher_sharding = sharding.parameter_shardings(
        {} if teacher is None else teacher.params,
        None if teacher is None else teacher.axes,
        mesh,
        share=_TEACHER_SHARE[layout.teacher],
    )
    if layout.teacher_memory == "host":
        teacher_sharding = sharding.on_host(teacher_sharding)
    # The rest of the student lies as its trained part does.
    of_student = functools.partial(
        sharding.parameter_shardings, mesh=mesh, share=(FSDP,) if share_params else ()
    )
    return Assembly(
        step=step,
        optimizer=optimizer,
        mesh=mesh,
        state_sharding=sharding.state_shardings(
            state, student.axes, mesh, share_params=share_params
        ),
        frozen_sharding=Frozen(
            {} if teacher is None else {TEACHER: teacher_sharding},
            student=None if frozen.student is None else of_student(frozen.student, student.axes),
            projections=of_student(frozen.projections, None),
        ),
        make_projections=setup.make_projections,
        make_state=make_state,
        method_state=setup.method_state,
        split=split,
    )
