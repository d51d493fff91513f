"""A configuration to an objective: its terms, with schedules as functions of the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdistill.config.objective import TermConfig
from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.engine.objective import (
    Objective,
    Schedule,
    Term,
    at_step,
    features_term,
    logits_term,
    task_term,
)
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.terms_cached import StoredLoss, stored_term, stored_tokens_term
from jaxdistill.engine.terms_fused import TokenLoss, fused_term
from jaxdistill.methods.method import Method
from jaxdistill.teachers.cache import codecs

FUSED = "fused"
"""Name of the one term that all losses without logits make together."""


class Weighted(NamedTuple):
    """A configured term with its function, and its schedules as functions of the step.

    Attributes:
      method: The method that it computes.
      function: The method's formula, or its form on what a codec keeps of the teacher.
      weight: Factor of the term's mean.
      options: Options of the method by name.
    """

    method: Method
    function: Callable[..., Any]
    weight: float | Schedule
    options: dict[str, Any]


def supervised_objective(config: Config, mesh: Mesh | None = None) -> Objective:
    """Return the task's own loss alone: what the teacher and the baseline train on.

    Args:
      config: Configuration of the run.
      mesh: Devices that share a batch under `jit`, for losses without logits.
    """
    terms = weighted(config.supervised_terms, 1)
    return _objective(terms, fuses=config.fuses, mesh=mesh)


def distillation_objective(
    config: Config,
    total_steps: int,
    projected: set[str],
    codec: codecs.Codec | None = None,
    *,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> Objective:
    """Return the configured terms; those in `projected` map widths.

    Args:
      config: Configuration of the run.
      total_steps: Updates of the stage, for schedules.
      projected: Names of the terms with features that are mapped.
      codec: Codec of the stored outputs, None of a live teacher.
      vocabulary: Real number of classes, where language models pad their heads differently.
      mesh: Devices that share a batch under `jit`, for losses without logits.
    """
    return _objective(
        weighted(config.terms, total_steps, codec),
        fuses=config.fuses,
        projected=projected,
        codec=codec,
        vocabulary=vocabulary,
        mesh=mesh,
    )


def weighted(
    terms: Mapping[str, TermConfig], total_steps: int, codec: codecs.Codec | None = None
) -> dict[str, Weighted]:
    """Return terms with every schedule as a function of the step, for a stage of that length."""

    partly = codec if isinstance(codec, codecs.TopK | codecs.Sampled) else None

    def form(method: Method) -> str | Callable[..., Any]:
        if partly is None or method.reads != "logits":
            return method.formula
        return method.cached[partly.name]

    return {
        name: Weighted(
            term.method,
            function_of(form(term.method)),
            value_schedule(term.weight, total_steps),
            {key: value_schedule(value, total_steps) for key, value in term.options.items()},
        )
        for name, term in terms.items()
    }


def _objective(
    terms: Mapping[str, Weighted],
    *,
    fuses: bool,
    projected: Collection[str] = (),
    codec: codecs.Codec | None = None,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> Objective:
    """Return one term for all losses that fuse, and one for each of the others."""
    joint: dict[str, Term] = {}
    if fuses:
        tokens = [name for name, term in terms.items() if term.method.fused]
        if isinstance(codec, codecs.TopK | codecs.Sampled):
            stored = {name: _stored(term, codec) for name, term in terms.items()}
            joint = {FUSED: stored_tokens_term(stored, vocabulary=vocabulary, mesh=mesh)}
        elif tokens:
            parts = {name: _token_loss(terms[name]) for name in tokens}
            joint = {FUSED: fused_term(parts, vocabulary=vocabulary, mesh=mesh)}
        terms = {name: term for name, term in terms.items() if name not in tokens}
    others = {
        name: _term(name, term, projected=name in projected, codec=codec, vocabulary=vocabulary)
        for name, term in terms.items()
    }
    return Objective(joint | others)


def _term(
    name: str,
    term: Weighted,
    *,
    projected: bool,
    codec: codecs.Codec | None,
    vocabulary: int | None,
) -> Term:
    method, function, weight, options = term
    if method.reads == "labels":
        return task_term(function, weight=weight, **options)
    if method.reads_layers:
        layers, rest = options["layers"], {k: v for k, v in options.items() if k != "layers"}
        return features_term(
            functools.partial(function, **rest) if rest else function,
            layers,
            kind=method.reads,
            weight=weight,
            projection=name if projected else None,
        )
    if method.reads == "logits":
        if isinstance(codec, codecs.TopK | codecs.Sampled):
            return stored_term(_stored(term, codec), vocabulary=vocabulary)
        if vocabulary is not None:
            function = _among(function, vocabulary)
        return logits_term(function, weight=weight, **{"temperature": None, **options})
    return _outputs_term(name, term)


def _outputs_term(name: str, term: Weighted) -> Term:
    """Return a term of whole outputs, with the parameters that its method trains."""
    method, function, weight, options = term
    ours, theirs = ((), ()) if method.taps is None else function_of(method.taps)(**options)
    moving: dict[str, Callable[..., Any]] = {k: v for k, v in options.items() if callable(v)}

    def compute(student, teacher, batch, *, step, projections, **carried):
        now = options | {key: at_step(schedule, step) for key, schedule in moving.items()}
        maps = projections.get(name)
        return function(student, teacher, batch, maps=maps, step=step, **carried, **now)

    return Term(
        compute,
        weight=weight,
        student_taps=tuple(ours),
        teacher_taps=tuple(theirs),
        stateful=method.state is not None,
    )


def _token_loss(term: Weighted) -> TokenLoss:
    """Return a term's part of the loss that makes no logits."""
    heat, beta = term.options.get("temperature", 1.0), term.options.get("beta", 0.5)
    return TokenLoss(term.method.name, term.weight, heat, beta)


def _stored(term: Weighted, codec: codecs.TopK | codecs.Sampled) -> StoredLoss:
    """Return a term's loss of what the codec keeps; of one on labels the loss itself."""
    method, function, weight, options = term
    if method.reads == "labels":
        return StoredLoss(function, (), weight, options)
    parts = codecs.TARGETS[codec.name]._fields
    return StoredLoss(function, parts, weight, options | {"temperature": codec.temperature})


def _among(loss: Callable[..., jax.Array], vocabulary: int) -> Callable[..., jax.Array]:
    """Return a loss of logits that looks at the first `vocabulary` classes of both sides only."""

    def function(student: jax.Array, teacher: jax.Array, **options: Any) -> jax.Array:
        return loss(student[..., :vocabulary], teacher[..., :vocabulary], **options)

    return function
