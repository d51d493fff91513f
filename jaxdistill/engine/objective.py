"""Named, weighted terms that make one objective out of a student's and a teacher's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill import losses
from jaxdistill.engine.mean import Mean
from jaxdistill.types import Tree

TEACHER = "teacher"
"""The name of a teacher that is alone."""
Batch = Mapping[str, jax.Array]
Schedule = Callable[[Any], ArrayLike]
"""A value by step, as optax schedules are."""


class ModelOutputs(Protocol):
    """What a term reads from a model; `jaxdistill.Outputs` has it."""

    @property
    def logits(self) -> jax.Array | None: ...
    @property
    def features(self) -> Mapping[str, jax.Array]: ...


@dataclasses.dataclass(frozen=True)
class Joint:
    """Several parts computed at once.

    Attributes:
      mean: weighted sum of the parts, which carries the gradient.
      parts: the mean of each, for the logs only.
    """

    mean: Mean
    parts: Mapping[str, Mean]


class TermFunction(Protocol):
    """Computes one term from the outputs; `projections` are the trained maps between widths."""

    def __call__(
        self,
        student: ModelOutputs,
        teacher: ModelOutputs | None,
        batch: Batch,
        *,
        step: jax.Array,
        projections: Tree,
    ) -> Mean | Joint: ...


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted part of an objective, with the taps that it needs from each model."""

    function: TermFunction
    weight: float | Schedule = 1.0
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    needs_teacher: bool = True
    teacher: str = TEACHER
    """The name of the teacher that it reads, where there are several."""
    stateful: bool = False
    """Whether its function also takes `state` and returns `(mean, new_state)`."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of terms: `sum_k weight_k(step) * mean_k`.

    Each mean is divided by its weight (examples, tokens), so terms do not change their balance
    with padding, batch splits or device counts.
    """

    terms: Mapping[str, Term]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher's outputs."""
        return any(term.needs_teacher for term in self.terms.values())

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Every tap that some term needs from the student."""
        return _union(term.student_taps for term in self.terms.values())

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers that some term reads."""
        return _union((term.teacher,) for term in self.terms.values() if term.needs_teacher)

    def teacher_taps(self, name: str = TEACHER) -> tuple[str, ...]:
        """Return every tap that some term needs from a teacher."""
        terms = (term for term in self.terms.values() if term.needs_teacher)
        return _union(term.teacher_taps for term in terms if term.teacher == name)

    def means(
        self,
        student: ModelOutputs,
        teacher: ModelOutputs | Mapping[str, ModelOutputs] | None,
        batch: Batch,
        *,
        step: jax.Array,
        projections: Tree = None,
    ) -> dict[str, Mean]:
        """Return every term's mean, unweighted and undivided, and those of its parts.

        The teacher is the outputs of one, or those of several by name.
        """
        return self.carried(student, teacher, batch, step=step, projections=projections)[0]

    def carried(
        self,
        student: ModelOutputs,
        teacher: ModelOutputs | Mapping[str, ModelOutputs] | None,
        batch: Batch,
        *,
        step: jax.Array,
        projections: Tree = None,
        states: Mapping[str, Tree] | None = None,
    ) -> tuple[dict[str, Mean], dict[str, Tree] | None]:
        """Return what `means` does, and the new states of the terms that carry one.

        Args:
          student, teacher, batch, step, projections: arguments of `means`.
          states: state of every stateful term by name; None where there is none.

        Raises:
          ValueError: a stateful term has no state, or returns another one than it got.
        """
        means: dict[str, Mean] = {}
        carried = {} if states is None else dict(states)
        for name, term in self.terms.items():
            if isinstance(teacher, Mapping):
                said = teacher[term.teacher] if term.needs_teacher else None
            else:
                said = teacher
            given: dict[str, Any] = {"step": step, "projections": projections}
            if term.stateful:
                before, function = _state_of(name, carried), cast("Any", term.function)
                found, after = function(student, said, batch, state=before, **given)
                carried[name] = _same_form(name, before, after)
            else:
                found = term.function(student, said, batch, **given)
            if isinstance(found, Joint):
                means |= {name: found.mean, **found.parts}
            else:
                means[name] = found
        return means, None if states is None else carried

    def total(
        self, means: Mapping[str, Mean], divisors: Mapping[str, jax.Array], step: jax.Array
    ) -> jax.Array:
        """Return the scalar `sum_k weight_k(step) * total_k / divisor_k`."""
        loss = jnp.float32(0)
        for name, term in self.terms.items():
            divisor = divisors[name]
            share = jnp.where(divisor == 0, 0.0, 1.0 / jnp.where(divisor == 0, 1.0, divisor))
            loss += at_step(term.weight, step) * means[name].total * share
        return loss


def _state_of(name: str, states: Mapping[str, Tree]) -> Tree:
    if name not in states:
        raise ValueError(
            f"method_state: got {sorted(states)}, but the term {name!r} carries a state; create "
            "the TrainState with method_state"
        )
    return states[name]


def _same_form(name: str, before: Tree, after: Tree) -> Tree:
    """Refuse a new state that is none of the same kind: a step would be compiled at every turn."""
    forms = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), state)
        for state in (before, after)
    ]
    leaves = [jax.tree.leaves(form) for form in forms]
    if jax.tree.structure(before) != jax.tree.structure(after) or leaves[0] != leaves[1]:
        raise ValueError(
            f"method_state: the term {name!r} returned {forms[1]}, expected what it got, {forms[0]}"
        )
    return after


def at_step(value: float | Schedule, step: jax.Array) -> jax.Array:
    """Return a constant, or a schedule's value at `step`."""
    return jnp.asarray(value(step) if callable(value) else value, jnp.float32)


def task_term(
    loss: Callable[..., jax.Array] = losses.cross_entropy,
    *,
    weight: float | Schedule = 1.0,
    **options: Any,
) -> Term:
    """Make a supervised term: `loss(student.logits, batch["labels"], **options)`.

    `batch["weight"]` (optional, `[B]`) weighs examples; integer labels outside the classes take no
    part.
    """

    def function(student, teacher, batch, *, step, projections):
        logits, labels = _logits(student, "student"), batch["labels"]
        if loss is losses.regression and logits.ndim == labels.ndim + 1:
            logits = logits[..., 0]
        values = loss(logits, labels, **options)
        where = example_weights(values, batch)
        if jnp.issubdtype(labels.dtype, jnp.integer):
            where *= losses.valid_labels(labels, logits.shape[-1])
        return Mean.of(values, where)

    return Term(function, weight=weight, needs_teacher=False)


def logits_term(
    loss: Callable[..., jax.Array] = losses.forward_kl,
    *,
    temperature: float | Schedule | None = 1.0,
    weight: float | Schedule = 1.0,
    **options: Any,
) -> Term:
    """Make a term that compares logits: `loss(student.logits, teacher.logits, temperature=…)`.

    A temperature of None is not passed on (for losses without one, such as `mse_logits`).
    """

    def function(student, teacher, batch, *, step, projections):
        extra = {} if temperature is None else {"temperature": at_step(temperature, step)}
        student_logits, teacher_logits = _logits(student, "student"), _logits(teacher, "teacher")
        values = loss(student_logits, teacher_logits, **extra, **options)
        return Mean.of(values, example_weights(values, batch))

    return Term(function, weight=weight)


def features_term(
    loss: Callable[..., jax.Array],
    layers: Mapping[int, int],
    *,
    kind: str = "hidden",
    weight: float | Schedule = 1.0,
    projection: str | None = None,
) -> Term:
    """Make a term over pairs of layers, averaged over pairs and real tokens.

    Args:
      loss: `(student [..., D], teacher [..., D]) -> [...]`.
      layers: `student_layer: teacher_layer`, counted from 0.
      kind: `hidden` or `attention`.
      projection: name under `projections` of the kernels `{student_layer: [D_student, D_teacher]}`
        applied to the student, for models of different widths.
    """
    pairs = {
        str(student): (f"layers.{student}.{kind}", f"layers.{teacher}.{kind}")
        for student, teacher in layers.items()
    }

    def function(student, teacher, batch, *, step, projections):
        mean = Mean(jnp.float32(0), jnp.float32(0))
        for key, (student_tap, teacher_tap) in pairs.items():
            ours, theirs = student.features[student_tap], teacher.features[teacher_tap]
            if projection is not None:
                ours = jnp.einsum("...d,de->...e", ours, projections[projection][key])
            values = loss(ours, theirs)
            mean += Mean.of(values, token_weights(values, batch, kind))
        return mean

    return Term(
        function,
        weight=weight,
        student_taps=tuple(ours for ours, _ in pairs.values()),
        teacher_taps=tuple(theirs for _, theirs in pairs.values()),
    )


def example_weights(values: jax.Array, batch: Batch) -> jax.Array:
    """Broadcast `batch["weight"]` `[B]` over the trailing axes of `values` `[B, ...]`.

    Values by token, `[B, T]`, are weighed by `batch["loss_mask"]` where there is one.
    """
    mask = batch.get("loss_mask")
    if mask is not None and mask.shape == values.shape:
        return mask.astype(jnp.float32)
    weight = batch.get("weight")
    if weight is None:
        return jnp.ones(values.shape, jnp.float32)
    return _over_trailing(weight, values)


def token_weights(values: jax.Array, batch: Batch, kind: str = "hidden") -> jax.Array:
    """Weigh positions by the attention mask and by their example, `[B, T]` or `[B, H, T]`.

    Values without a token axis (images) are weighed by example alone.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        return example_weights(values, batch)
    where = mask.astype(jnp.float32)  # [B, T]
    if "pool_rows" not in batch and "weight" in batch:
        where = where * batch["weight"].astype(jnp.float32)[:, None]
    if kind == "attention":
        where = where[:, None, :]  # [B, 1, T]
    return jnp.broadcast_to(where, values.shape)


def _over_trailing(weight: jax.Array, values: jax.Array) -> jax.Array:
    expanded = weight.astype(jnp.float32).reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    return jnp.broadcast_to(expanded, values.shape)


def _logits(outputs: ModelOutputs | None, side: str) -> jax.Array:
    if outputs is None or outputs.logits is None:
        raise ValueError(
            f"{side}: got no logits, expected Outputs(logits=[B, C]); "
            f"return them from the {side}'s apply function"
        )
    return outputs.logits


def _union(groups) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tap for group in groups for tap in group))
