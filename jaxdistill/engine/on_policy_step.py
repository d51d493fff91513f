"""On-policy distillation: a share of the batches is written by the student before it learns."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill.engine.frozen import as_frozen
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Batch, Schedule, at_step
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import Metrics, TrainStep
from jaxdistill.types import Tree

_KEY = 0x5A3D  # Another stream than the step's dropout.


def make_on_policy_step(
    step: TrainStep,
    continue_texts: Callable[[Tree, Batch, jax.Array], Batch],
    share: float | Schedule,
) -> TrainStep:
    """Make a step that learns from the student's texts in a share of the batches.

    Generalized knowledge distillation (Agarwal et al. 2023, "On-Policy Distillation of Language
    Models: Learning from Self-Generated Mistakes", algorithm 1, whose lambda is `share`): with that
    probability a batch is replaced by prompts of it that the student of now goes on with. The
    student's samples are data: no gradient flows through how they were drawn. The divergence is the
    objective's, forward or reverse KL or between them.

    Both kinds of batch have the same shapes, and which one it is is drawn inside of the step from
    the state's key and step number: one program serves the whole run, and a resumed run draws the
    same.

    Args:
      step: from `make_train_step`.
      continue_texts: `(student_params, batch, rng) -> batch` of the same keys, shapes and dtypes,
        such as `models.continuation.make_continue` makes.
      share: probability that a batch is the student's, 0 to 1, or a schedule of it.

    Returns:
      The step. Its metric `on_policy` is the share of batches that were the student's.
    """

    def on_policy(
        state: TrainState, frozen: Tree, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), _KEY)
        choice, draw = jax.random.split(rng)
        if axis_name is not None:  # All devices choose alike, each writes other texts.
            draw = jax.random.fold_in(draw, jax.lax.axis_index(axis_name))
        student = as_frozen(frozen).whole(state.params)["student"]
        chosen = jax.random.uniform(choice) < at_step(share, state.step)
        batch = jax.lax.cond(
            chosen,
            lambda batch: dict(continue_texts(student, batch, draw)),
            dict,
            batch,
        )
        state, metrics = step(state, frozen, batch, axis_name=axis_name)
        metrics = {**metrics, "on_policy": Mean.single(chosen)}
        if "invalid_labels" in metrics:  # What the student writes has none, which is no fault.
            invalid = jnp.where(chosen, 0.0, metrics["invalid_labels"].total)
            metrics["invalid_labels"] = Mean.single(invalid)
        return state, metrics

    return on_policy
