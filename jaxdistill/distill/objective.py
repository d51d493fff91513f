"""A configuration to an objective: its terms, with schedules as functions of the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxdistill.config.objective import TermConfig, make_term
from jaxdistill.config.schema import Config
from jaxdistill.distill import language
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
from jaxdistill.methods.method import Method, function_of
from jaxdistill.teachers.cache import codecs

FUSED = "fused"
"""Name of the one term that all losses without logits make together."""


class Weighted(NamedTuple):
    """A configured term whose schedules are functions of the step.

    Attributes:
      method: formula of the term.
      weight: factor of its mean.
      options: options of the method by name.
    """

    method: Method
    weight: float | Schedule
    options: dict[str, Any]


def supervised_objective(config: Config, mesh: Mesh | None = None) -> Objective:
    """Return the task's own loss alone: what the teacher and the baseline train on.

    Args:
      config: configuration of the run.
      mesh: devices that share a batch under `jit`, for losses without logits.
    """
    chosen = {
        name: term.model_copy(update={"weight": 1.0})
        for name, term in config.terms.items()
        if term.method.reads == "labels"
    }
    terms = weighted(chosen or {"hard": make_term(config.task_record.loss)}, 1)
    if language.fuses(config):
        return Objective(_fused(terms, mesh=mesh))
    return Objective({name: _term(name, term) for name, term in terms.items()})


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
      config: configuration of the run.
      total_steps: updates of the stage, for schedules.
      projected: names of the terms whose features are mapped.
      codec: codec of the cache that stands for the teacher, where one does.
      vocabulary: real number of classes, where language models pad their heads differently.
      mesh: devices that share a batch under `jit`, for losses without logits.
    """
    terms, fused = weighted(config.terms, total_steps), {}
    if language.fuses(config):
        if isinstance(codec, codecs.TopK | codecs.Sampled):
            stored = {name: _stored(term, codec) for name, term in terms.items()}
            fused = {FUSED: stored_tokens_term(stored, vocabulary=vocabulary, mesh=mesh)}
        else:
            fused = _fused(terms, vocabulary=vocabulary, mesh=mesh)
        terms = {name: term for name, term in terms.items() if not term.method.fused}
    others = {
        name: _term(name, term, projected=name in projected, codec=codec, vocabulary=vocabulary)
        for name, term in terms.items()
    }
    return Objective(fused | others)


def weighted(terms: Mapping[str, TermConfig], total_steps: int) -> dict[str, Weighted]:
    """Return terms with every schedule as a function of the step, for a stage of that length."""
    return {
        name: Weighted(
            term.method,
            value_schedule(term.weight, total_steps),
            {key: value_schedule(value, total_steps) for key, value in term.options.items()},
        )
        for name, term in terms.items()
    }


def _fused(
    terms: Mapping[str, Weighted], *, vocabulary: int | None = None, mesh: Mesh | None = None
) -> dict[str, Term]:
    """Return one term that computes all token losses among `terms` without logits, if any."""
    parts = {
        name: TokenLoss(
            term.method.name,
            term.weight,
            term.options.get("temperature", 1.0),
            term.options.get("beta", 0.5),
        )
        for name, term in terms.items()
        if term.method.fused
    }
    return {FUSED: fused_term(parts, vocabulary=vocabulary, mesh=mesh)} if parts else {}


def _term(
    name: str,
    term: Weighted,
    *,
    projected: bool = False,
    codec: codecs.Codec | None = None,
    vocabulary: int | None = None,
) -> Term:
    method, weight, options = term
    function, options = function_of(method.formula), dict(options)
    if method.reads == "labels":
        return task_term(function, weight=weight, **options)
    if method.reads_layers:
        layers = options.pop("layers")
        return features_term(
            functools.partial(function, **options) if options else function,
            layers,
            kind=method.reads,
            weight=weight,
            projection=name if projected else None,
        )
    if method.reads == "outputs":
        return _outputs_term(name, term)
    if vocabulary is not None:
        function = language.among(function, vocabulary)
    if isinstance(codec, codecs.TopK | codecs.Sampled):
        return stored_term(_stored(term, codec), vocabulary=vocabulary)
    temperature = options.pop("temperature", None)
    return logits_term(function, temperature=temperature, weight=weight, **options)


def _outputs_term(name: str, term: Weighted) -> Term:
    """Return a term of whole outputs, with the parameters that its method trains."""
    method, weight, options = term
    function = function_of(method.formula)
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


def _stored(term: Weighted, codec: codecs.TopK | codecs.Sampled) -> StoredLoss:
    """Return a term's loss of what the codec keeps; of one on labels the loss itself."""
    method, weight, options = term
    if method.reads == "labels":
        return StoredLoss(function_of(method.formula), (), weight, options)
    loss = function_of(method.cached[codec.name])
    return StoredLoss(
        loss,
        codecs.TARGETS[codec.name]._fields,
        weight,
        options | {"temperature": codec.temperature},
    )
