"""A configuration to an objective: its terms, and the maps between models of different widths."""

from __future__ import annotations

import functools

from jax.sharding import Mesh

from jaxdistill.config.base import ScheduleConfig
from jaxdistill.config.objective import TermConfig, make_term
from jaxdistill.config.schema import Config
from jaxdistill.distill import language
from jaxdistill.engine.objective import (
    Objective,
    Term,
    at_step,
    features_term,
    logits_term,
    task_term,
)
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.terms_cached import StoredLoss, stored_term, stored_tokens_term
from jaxdistill.methods.method import function_of
from jaxdistill.teachers.cache import codecs


def supervised_objective(config: Config, mesh: Mesh | None = None) -> Objective:
    """Return the task's own loss alone: what the teacher and the baseline train on.

    Args:
      mesh: of several devices that share a batch under `jit`, for losses without logits.
    """
    terms = {
        name: term.model_copy(update={"weight": 1.0})
        for name, term in config.terms.items()
        if term.method.reads == "labels"
    }
    if not terms:
        terms = {"hard": make_term(config.task_record.loss)}
    if language.fuses(config):
        return Objective(language.fused_terms(terms, 1, mesh=mesh))
    return Objective({name: _term(name, term, 1) for name, term in terms.items()})


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
      codec: of the cache that stands for the teacher, where one does.
      vocabulary: the real number of classes, where language models pad their heads differently.
      mesh: of several devices that share a batch under `jit`, for losses without logits.
    """
    terms, fused = dict(config.terms), {}
    if language.fuses(config):
        if isinstance(codec, codecs.TopK | codecs.Sampled):
            stored = {name: _stored(term, total_steps, codec) for name, term in terms.items()}
            whole = stored_tokens_term(stored, vocabulary=vocabulary, mesh=mesh)
            fused = {language.FUSED: whole}
        else:
            fused = language.fused_terms(terms, total_steps, vocabulary=vocabulary, mesh=mesh)
        terms = {name: term for name, term in terms.items() if not term.method.fused}
    others = {
        name: _term(
            name,
            term,
            total_steps,
            projected=name in projected,
            codec=codec,
            vocabulary=vocabulary,
        )
        for name, term in terms.items()
    }
    return Objective(fused | others)


def _term(
    name: str,
    term: TermConfig,
    total_steps: int,
    *,
    projected: bool = False,
    codec: codecs.Codec | None = None,
    vocabulary: int | None = None,
) -> Term:
    method, weight = term.method, value_schedule(term.weight, total_steps)
    function, options = function_of(method.formula), term.options
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
        return _outputs_term(name, term, total_steps)
    if vocabulary is not None:
        function = language.among(function, vocabulary)
    if isinstance(codec, codecs.TopK | codecs.Sampled):
        return stored_term(_stored(term, total_steps, codec), vocabulary=vocabulary)
    temperature = options.pop("temperature", None)
    if temperature is not None:
        temperature = value_schedule(temperature, total_steps)
    return logits_term(function, temperature=temperature, weight=weight, **options)


def _outputs_term(name: str, term: TermConfig, total_steps: int) -> Term:
    """Return a term of whole outputs, with the parameters that its method trains."""
    options, method = term.options, term.method
    function = function_of(method.formula)
    ours, theirs = ((), ()) if method.taps is None else function_of(method.taps)(**options)
    moving = {
        key: value_schedule(value, total_steps)
        for key, value in options.items()
        if isinstance(value, ScheduleConfig)
    }

    def compute(student, teacher, batch, *, step, projections):
        now = options | {key: at_step(schedule, step) for key, schedule in moving.items()}
        return function(student, teacher, batch, maps=projections.get(name), step=step, **now)

    weight = value_schedule(term.weight, total_steps)
    return Term(compute, weight=weight, student_taps=tuple(ours), teacher_taps=tuple(theirs))


def _stored(term: TermConfig, total_steps: int, codec: codecs.TopK | codecs.Sampled) -> StoredLoss:
    """Return a term's loss of what the codec keeps; of one on labels the loss itself."""
    weight, method = value_schedule(term.weight, total_steps), term.method
    if method.reads == "labels":
        return StoredLoss(function_of(method.formula), (), weight, term.options)
    options = term.options | {"temperature": codec.temperature}
    loss = function_of(method.cached[codec.name])
    return StoredLoss(loss, codecs.TARGETS[codec.name]._fields, weight, options)
