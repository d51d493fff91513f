"""A language model's loss alone on one device: value and gradients from hidden states and heads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.typing import DTypeLike

from jaxdistill import losses
from jaxdistill.errors import ConfigError
from jaxdistill.losses import FusedTerm, Projection, fused_loss
from jaxdistill.types import Tree


class Sizes(NamedTuple):
    """What is computed: widths of both sides, columns of both heads, dtype of everything."""

    student: int
    teacher: int
    vocabulary: int
    dtype: DTypeLike


# The mix that benchmarks/fused_loss.py measures.
TERMS = {
    "forward_kl": FusedTerm("forward_kl", 0.5, 2.0),
    "cross_entropy": FusedTerm("cross_entropy", 0.5),
}


def dense(
    student: jax.Array,
    head: jax.Array,
    teacher: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array,
    *,
    terms: Mapping[str, FusedTerm] = TERMS,
) -> jax.Array:
    """Return the mean mix of hidden states `[N, D]` and heads `[D, V]` from whole logits."""
    ours = jnp.matmul(student, head, preferred_element_type=jnp.float32)
    theirs = jnp.matmul(teacher, teacher_head, preferred_element_type=jnp.float32)
    values = []
    for term in terms.values():
        if term.loss == "cross_entropy":
            values.append(term.weight * losses.cross_entropy(ours, labels))
            continue
        options: dict[str, Any] = {"beta": term.beta} if term.loss == "jsd" else {}
        options["temperature"] = term.temperature
        values.append(term.weight * getattr(losses, term.loss)(ours, theirs, **options))
    return jnp.mean(functools.reduce(jnp.add, values))


def fused(
    student: jax.Array,
    head: jax.Array,
    teacher: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array,
    *,
    terms: Mapping[str, FusedTerm] = TERMS,
    **settings: Any,
) -> jax.Array:
    """Return the same mean from hidden states."""
    sides = Projection(student, head), Projection(teacher, teacher_head)
    return fused_loss(*sides, terms, labels=labels, **settings).mix / labels.size


def shapes(
    tokens: int, sizes: Sizes, sharding: Sharding | None = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return what both take, as shapes."""

    def shape(*dimensions: int, dtype: DTypeLike = sizes.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dimensions, dtype, sharding=sharding)

    return (
        shape(tokens, sizes.student),
        shape(sizes.student, sizes.vocabulary),
        shape(tokens, sizes.teacher),
        shape(sizes.teacher, sizes.vocabulary),
        shape(tokens, dtype=jnp.int32),
    )


def lowered(function: Callable[..., jax.Array], arguments: tuple[Tree, ...]) -> jax.stages.Lowered:
    """Lower value and gradients to the student's hidden states and head."""
    return jax.jit(jax.value_and_grad(function, (0, 1))).lower(*arguments)


def useful_flops(tokens: int, sizes: Sizes) -> int:
    """Return the operations of the four products that any implementation needs."""
    return 2 * tokens * sizes.vocabulary * (3 * sizes.student + sizes.teacher)


def terms_of(terms: Mapping[str, Any]) -> dict[str, FusedTerm]:
    """Return the token losses among a config's terms.

    Raises:
      ConfigError: a weight or temperature that changes with the step, or no token loss.
    """
    found = {}
    for name, term in terms.items():
        options = term.options
        temperature = options.get("temperature", 1.0)
        if not all(isinstance(value, int | float) for value in (term.weight, temperature)):
            raise ConfigError(
                f"objective.{name}: got a schedule, expected numbers to plan the loss alone"
            )
        if term.method.fused:
            found[name] = FusedTerm(term.loss, term.weight, temperature, options.get("beta", 0.5))
    if not found:
        raise ConfigError("objective: got no token loss, expected one to plan the loss alone")
    return found
