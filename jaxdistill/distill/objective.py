"""A configuration to an objective: its terms, and the maps between models of different widths."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from jaxdistill import losses
from jaxdistill.config.objective import (
    ATTENTION_LOSSES,
    FUSED_LOSSES,
    HIDDEN_LOSSES,
    LOGIT_LOSSES,
    OPTIONS,
    SUPERVISED_LOSSES,
    TASK_LOSSES,
    TermConfig,
)
from jaxdistill.config.schema import Config
from jaxdistill.distill import language
from jaxdistill.engine.objective import (
    Objective,
    Term,
    features_term,
    logits_term,
    task_term,
)
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.terms_cached import StoredLoss, stored_term, stored_tokens_term
from jaxdistill.teachers.cache import codecs


def supervised_objective(config: Config, mesh: Mesh | None = None) -> Objective:
    """Return the task's own loss alone: what the teacher and the baseline train on.

    Args:
      mesh: of several devices that share a batch under `jit`, for losses without logits.
    """
    terms = {
        name: term.model_copy(update={"weight": 1.0})
        for name, term in config.terms.items()
        if term.loss in SUPERVISED_LOSSES
    }
    if not terms:
        terms = {"hard": TermConfig.model_validate({"loss": TASK_LOSSES[config.task]})}
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
        terms = {name: term for name, term in terms.items() if term.loss not in FUSED_LOSSES}
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
    function = getattr(losses, term.loss)
    if vocabulary is not None and term.loss in LOGIT_LOSSES:
        function = language.among(function, vocabulary)
    weight = value_schedule(term.weight, total_steps)
    if term.loss in SUPERVISED_LOSSES:
        options = {"label_smoothing": term.label_smoothing} if term.label_smoothing else {}
        return task_term(function, weight=weight, **options)
    if term.loss in HIDDEN_LOSSES + ATTENTION_LOSSES:
        return features_term(
            function,
            term.layers or {},
            kind="hidden" if term.loss in HIDDEN_LOSSES else "attention",
            weight=weight,
            projection=name if projected else None,
        )
    temperature = value_schedule(term.temperature, total_steps)
    options = {"beta": term.beta} if term.loss == "jsd" else {}
    if isinstance(codec, codecs.TopK | codecs.Sampled):
        return stored_term(_stored(term, total_steps, codec), vocabulary=vocabulary)
    if "temperature" not in OPTIONS[term.loss]:
        return logits_term(function, temperature=None, weight=weight)
    return logits_term(function, temperature=temperature, weight=weight, **options)


def _stored(term: TermConfig, total_steps: int, codec: codecs.TopK | codecs.Sampled) -> StoredLoss:
    """Return a term's loss of what the codec keeps; of one on labels the loss itself."""
    weight = value_schedule(term.weight, total_steps)
    if term.loss in SUPERVISED_LOSSES:
        return StoredLoss(getattr(losses, term.loss), (), weight, {})
    options: dict[str, Any] = {"temperature": codec.temperature}
    if term.loss == "jsd":
        options["beta"] = term.beta
    loss = getattr(losses, f"{codec.name}_{term.loss}")
    return StoredLoss(loss, codecs.TARGETS[codec.name]._fields, weight, options)
