"""A term of token losses from hidden states and heads: logits never exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill import losses
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Batch, Joint, Schedule, Term, at_step
from jaxdistill.losses.fused.api import FusedLoss, FusedTerm
from jaxdistill.losses.head import Projection
from jaxdistill.models.outputs import Outputs


class TokenLoss(NamedTuple):
    """One part of the mix: a loss of `losses.fused_loss`, its weight and temperature by step."""

    loss: str
    weight: float | Schedule = 1.0
    temperature: float | Schedule = 1.0
    beta: float = 0.5


def fused_term(
    parts: Mapping[str, TokenLoss], *, vocabulary: int | None = None, mesh: Mesh | None = None
) -> Term:
    """Make one term of several token losses, each of them reported by name.

    Every part is a mean over the tokens whose `batch["loss_mask"]` is not 0; all of these must have
    a label.

    Args:
      parts: by name.
      vocabulary: the real number of classes, where the heads are padded differently.
      mesh: devices that share a batch under `jit`, where there are several.
    """
    needs_teacher = any(part.loss != "cross_entropy" for part in parts.values())

    def function(student, teacher, batch, *, step, projections):
        terms = {
            name: FusedTerm(
                part.loss,
                at_step(part.weight, step),
                # A plain 1 is left out of the computation.
                1.0 if part.temperature == 1 else at_step(part.temperature, step),
                part.beta,
            )
            for name, part in parts.items()
        }
        found = token_loss(
            student,
            teacher if needs_teacher else None,
            batch,
            terms,
            vocabulary=vocabulary,
            mesh=mesh,
        )
        told = {name: Mean(total, weight) for name, (total, weight) in found.terms.items()}
        # All parts have the same tokens, so that the mix has one weight to be divided by.
        return Joint(Mean(found.mix, loss_mask(batch).sum()), told)

    return Term(function, needs_teacher=needs_teacher)


def token_loss(
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    terms: Mapping[str, FusedTerm],
    *,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> FusedLoss:
    """Compute `losses.fused_loss` over a batch of packed rows."""
    sides = projection(student), None if teacher is None else projection(teacher)
    labels, where = batch["labels"], loss_mask(batch)
    if mesh is None or mesh.size == 1:
        return losses.fused_loss(*sides, terms, labels=labels, where=where, vocabulary=vocabulary)
    return losses.fused_loss_on_mesh(
        mesh, *sides, terms, labels=labels, where=where, vocabulary=vocabulary
    )


def projection(outputs: Outputs) -> Projection:
    """Return what a model's logits are made of."""
    head = outputs.head()
    assert outputs.hidden is not None  # what the head reads
    return Projection(outputs.hidden, head.weights, head.bias, head.scale, head.softcap)


def loss_mask(batch: Batch) -> jax.Array:
    """Return the weight of each token, float32 `[B, T]`."""
    return batch["loss_mask"].astype(jnp.float32)
