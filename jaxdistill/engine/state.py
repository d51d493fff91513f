"""What training carries from step to step: what is trained, and nothing else."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxdistill.types import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a training run.

    Attributes:
      step: scalar int32, updates done.
      params: `{"student": …, "projections": …}`, their trained parts, float32; exports drop the
        projections.
      opt_state: state of the optax optimizer, over `params`.
      rng: a PRNG key; the step folds its number in, so it never changes.
      model_state: untrained state of the student such as batch statistics, or None.
      ema: exponential moving average of `params`, or None.
      method_state: what terms of the objective carry from step to step, by name, or None.
    """

    step: jax.Array
    params: dict[str, Tree]
    opt_state: Tree
    rng: jax.Array
    model_state: Tree = None
    ema: Tree = None
    method_state: dict[str, Tree] | None = None

    @classmethod
    def create(
        cls,
        student: Tree,
        optimizer: optax.GradientTransformation,
        *,
        seed: int | jax.Array = 0,
        projections: Tree = None,
        model_state: Tree = None,
        ema: bool = False,
        method_state: dict[str, Tree] | None = None,
    ) -> TrainState:
        """Start a run from a student's parameters, or from the trained part of them.

        Buffers are copied, so that donating the state never invalidates the caller's parameters.
        """
        params = {"student": student, "projections": {} if projections is None else projections}
        params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
        return cls(
            step=jnp.int32(0),
            params=params,
            opt_state=optimizer.init(params),
            rng=jax.random.key(seed) if isinstance(seed, int) else seed,
            model_state=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), model_state),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params) if ema else None,
            method_state=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), method_state),
        )

    @property
    def student(self) -> Tree:
        """The student's trained parameters, averaged where the run keeps an average."""
        return (self.params if self.ema is None else self.ema)["student"]
