"""Terms on a stored part of the teacher's distribution: its largest classes, or a sample.

The parts are features of the teacher's outputs, named as the arguments of the loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Joint, Schedule, Term, at_step, example_weights
from jaxdistill.engine.terms_fused import loss_mask, projection
from jaxdistill.losses.chunked.api import chunked_loss
from jaxdistill.losses.chunked.mesh import chunked_loss_on_mesh


class StoredLoss(NamedTuple):
    """A loss of the student's logits and of parts of the teacher's distribution.

    Attributes:
      loss: `(logits, *parts, **options) -> [...]`, such as `losses.topk_forward_kl`.
      parts: names of the teacher's features; none for a loss of the labels.
      weight: weight in the objective, which may depend on the step.
      options: the loss's options, the temperature that the parts were stored at among them.
    """

    loss: Callable[..., jax.Array]
    parts: tuple[str, ...]
    weight: float | Schedule
    options: Mapping[str, Any]


def stored_tokens_term(
    terms: Mapping[str, StoredLoss], *, vocabulary: int | None = None, mesh: Mesh | None = None
) -> Term:
    """Make one term of several losses over tokens, each reported by name, without whole logits.

    Args:
      terms: by name; those without parts are given `batch["labels"]`.
      vocabulary: the real number of classes, where the student's head is padded.
      mesh: devices that share a batch under `jit`, where there are several.
    """

    def function(student, teacher, batch, *, step, projections):
        arguments = {"labels": batch["labels"], **teacher.features}

        def of(term: StoredLoss) -> Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]:
            names = term.parts or ("labels",)
            return lambda logits, own: term.loss(
                logits, *(own[name] for name in names), **term.options
            )

        weighted = {name: (of(term), at_step(term.weight, step)) for name, term in terms.items()}
        where = loss_mask(batch)
        loss = chunked_loss
        if mesh is not None and mesh.size > 1:
            loss = functools.partial(chunked_loss_on_mesh, mesh)
        found = loss(projection(student), weighted, arguments, where, vocabulary=vocabulary)
        told = {name: Mean(total, weight) for name, (total, weight) in found.terms.items()}
        return Joint(Mean(found.mix, where.sum()), told)

    return Term(function)


def stored_term(term: StoredLoss, *, vocabulary: int | None = None) -> Term:
    """Make a term of one loss over whole logits.

    Args:
      term: with parts.
      vocabulary: the real number of classes, where the student's head is padded.
    """

    def function(student, teacher, batch, *, step, projections):
        parts = [teacher.features[name] for name in term.parts]
        values = term.loss(student.logits[..., :vocabulary], *parts, **term.options)
        return Mean.of(values, example_weights(values, batch))

    return Term(function, weight=term.weight)
