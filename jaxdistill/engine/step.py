"""The training step: pure, unjitted, the same under jit, pmap and shard_map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxdistill.engine.frozen import as_frozen
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import TEACHER, Batch, ModelOutputs, Objective
from jaxdistill.engine.state import TrainState
from jaxdistill.types import Tree

Metrics = dict[str, Mean]


class TrainStep(Protocol):
    """One update; `axis_name` is set only under pmap or shard_map."""

    def __call__(
        self,
        state: TrainState,
        frozen: Tree,
        batch: Batch,
        *,
        axis_name: str | None = None,
    ) -> tuple[TrainState, Metrics]: ...


def make_train_step(
    student: Callable[..., ModelOutputs],
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    teacher: Callable[..., ModelOutputs] | Mapping[str, Callable[..., ModelOutputs]] | None = None,
    accumulate: int = 1,
    ema: float | None = None,
) -> TrainStep:
    """Make `step(state, frozen, batch) -> (state, metrics)`.

    The loss is `sum_k w_k * (sum over the whole batch of term k) / (its whole weight)`: the same
    value and gradient for any number of microbatches or devices and any padding. The state holds
    what is trained and nothing else. `frozen` holds the rest behind `stop_gradient`, a `Frozen` or
    the teacher's parameters as they are; the teacher runs without dropout.

    Args:
      student: `apply(params, batch, *, rng, train, taps) -> Outputs`; called with `model_state` too
        where the state holds one.
      optimizer: an optax transformation over `{"student": …, "projections": …}`, where they are
        trained.
      objective: the loss; its terms decide which taps are asked for.
      teacher: apply function like `student`, or several by name; needed when a term reads one.
      accumulate: microbatches per update; row `i` of the batch goes to microbatch `i % accumulate`.
      ema: decay of the parameters' moving average, for a state created with `ema=True`.

    Returns:
      The step. Its metrics are means that stay on the device: `loss`, every term by name,
      `gradient_norm` over the trained parameters, and `invalid_labels` where labels are integers.
      It raises ValueError where `frozen` lacks the teacher.

    Raises:
      ValueError: a term needs a teacher and none is given, or the batch does not divide.
    """
    if objective.needs_teacher and teacher is None:
        names = [name for name, term in objective.terms.items() if term.needs_teacher]
        raise ValueError(f"teacher: got None, but the terms {names} read it; pass teacher=apply")
    speakers = teacher if isinstance(teacher, Mapping) else {TEACHER: teacher} if teacher else {}
    for name, term in objective.terms.items():
        if term.needs_teacher and term.teacher not in speakers:
            raise ValueError(
                f"teacher: got {sorted(speakers)}, but the term {name!r} reads {term.teacher!r}"
            )

    def teach(teachers, batch):
        said = {}
        for name in objective.teachers:
            if name not in teachers:
                raise ValueError(f"frozen.teachers: got {sorted(teachers)}, expected {name!r}")
            outputs = speakers[name](
                teachers[name],
                batch,
                rng=None,
                train=False,
                taps=objective.teacher_taps(name),
            )
            said[name] = jax.lax.stop_gradient(outputs)
        return said

    def forward(params, batch, targets, state, rng, model_state, method_state):
        extra = {} if model_state is None else {"model_state": model_state}
        outputs = student(
            params["student"], batch, rng=rng, train=True, taps=objective.student_taps, **extra
        )
        means, method_state = objective.carried(
            outputs,
            targets,
            batch,
            step=state.step,
            projections=params["projections"],
            states=method_state,
        )
        return means, outputs, method_state

    def step(state, frozen, batch, *, axis_name=None):
        frozen = as_frozen(frozen)
        rng = jax.random.fold_in(state.rng, state.step)
        if axis_name is not None:
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
        whole_known = accumulate == 1 and axis_name is None

        def divisors(parts):
            # Weights do not depend on the parameters, so the compiler drops the models from this.
            def weights(part):
                targets = teach(frozen.teachers, part)
                params = frozen.whole(state.params)
                carried = state.model_state, state.method_state
                means, *_ = forward(params, part, targets, state, rng, *carried)
                return {name: mean.weight for name, mean in means.items()}

            summed = jax.tree.map(lambda leaf: leaf.sum(0), jax.lax.map(weights, parts))
            return summed if axis_name is None else jax.lax.psum(summed, axis_name)

        def part_gradients(part, part_rng, carried, whole):
            targets = teach(frozen.teachers, part)

            def loss_of(trained):
                params = frozen.whole(trained)
                model_state, method_state = carried
                means, outputs, method_state = forward(
                    params, part, targets, state, part_rng, model_state, method_state
                )
                by = whole
                if by is None:
                    by = {name: mean.weight for name, mean in means.items()}
                loss = objective.total(means, jax.lax.stop_gradient(by), state.step)
                invalid = _invalid_labels(outputs, part)
                new_model_state = None if model_state is None else _new_state(outputs)
                return loss, (means, invalid, (new_model_state, method_state))

            return jax.value_and_grad(loss_of, has_aux=True)(state.params)

        if whole_known:
            (loss, (means, invalid, carried)), gradients = part_gradients(
                batch, rng, (state.model_state, state.method_state), None
            )
        else:
            parts = _split(batch, accumulate)
            whole = divisors(parts)

            def add(carry, item):
                carried, sums = carry
                part, index = item
                (loss, (means, invalid, carried)), gradients = part_gradients(
                    part, jax.random.fold_in(rng, index), carried, whole
                )
                sums = jax.tree.map(jnp.add, sums, (loss, means, invalid, gradients))
                return (carried, sums), None

            carried = state.model_state, state.method_state
            shapes = jax.eval_shape(
                lambda: part_gradients(
                    jax.tree.map(lambda leaf: leaf[0], parts), rng, carried, whole
                )
            )
            (loss_shape, (means_shape, invalid_shape, _)), gradients_shape = shapes
            zeros = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                (loss_shape, means_shape, invalid_shape, gradients_shape),
            )
            (carried, (loss, means, invalid, gradients)), _ = jax.lax.scan(
                add, (carried, zeros), (parts, jnp.arange(accumulate))
            )
            if axis_name is not None:
                loss, means, invalid, gradients = jax.lax.psum(
                    (loss, means, invalid, gradients), axis_name
                )
                carried = _averaged(carried, axis_name)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if ema is not None and average is not None:
            average = optax.incremental_update(params, average, 1.0 - ema)
        metrics = {
            "loss": Mean.single(loss),
            **means,
            "gradient_norm": Mean.single(optax.tree.norm(gradients)),
        }
        if invalid is not None:
            metrics["invalid_labels"] = Mean.single(invalid)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            model_state=carried[0],
            ema=average,
            method_state=carried[1],
        )
        return new_state, metrics

    return step


def make_eval_step(
    model: Callable[..., ModelOutputs], objective: Objective
) -> Callable[..., tuple[jax.Array | None, Metrics]]:
    """Make `eval_step(params, batch, model_state=None) -> (logits, metrics)` for a model alone.

    Args:
      model: `apply(params, batch, *, rng, train, taps) -> Outputs`, run without dropout.
      objective: supervised terms only; the metrics hold their means and `loss`.

    Raises:
      ValueError: a term needs a teacher.
    """
    if objective.needs_teacher:
        raise ValueError("objective: got terms that read a teacher, expected supervised terms only")

    def eval_step(params, batch, model_state=None):
        extra = {} if model_state is None else {"model_state": model_state}
        outputs = model(params, batch, rng=None, train=False, taps=objective.student_taps, **extra)
        step = jnp.int32(0)
        means = objective.means(outputs, None, batch, step=step)
        weights = {name: mean.weight for name, mean in means.items()}
        # Weighted by examples, so that sums over batches divide to the mean of the whole.
        examples = next(iter(weights.values()))
        loss = objective.total(means, weights, step)
        return outputs.logits, {"loss": Mean(loss * examples, examples), **means}

    return eval_step


def _split(batch: Batch, parts: int) -> dict[str, jax.Array]:
    """Reshape `[B, ...]` to `[parts, B / parts, ...]`; rows stay on their devices."""

    def split(name, leaf):
        rows = leaf.shape[0]
        if rows % parts:
            near = [n for n in range(1, rows + 1) if rows % n == 0]
            raise ValueError(
                f"accumulate: got {parts} microbatches for {rows} rows of {name!r}, "
                f"expected a divisor of the batch; one of {near}"
            )
        return jnp.swapaxes(leaf.reshape(rows // parts, parts, *leaf.shape[1:]), 0, 1)

    return {name: split(name, leaf) for name, leaf in batch.items()}


def _averaged(carried: Tree, axis_name: str) -> Tree:
    """Average what devices carry; counts, which are the same on all of them, stay whole."""
    return jax.tree.map(
        lambda leaf: (
            jax.lax.pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
        ),
        carried,
    )


def _invalid_labels(outputs: ModelOutputs, batch: Batch) -> jax.Array | None:
    labels = batch.get("labels")
    if labels is None or outputs.logits is None or not jnp.issubdtype(labels.dtype, jnp.integer):
        return None
    outside = (labels < 0) | (labels >= outputs.logits.shape[-1])
    weight = batch.get("loss_mask", batch.get("weight"))
    if weight is not None and weight.shape == labels.shape:
        outside &= weight > 0
    return outside.sum().astype(jnp.float32)


def _new_state(outputs: Any) -> Tree:
    if outputs.model_state is None:
        raise ValueError(
            "model_state: the state holds one but the student returned None; "
            "return Outputs(model_state=…) when train=True"
        )
    return outputs.model_state
