"""A configuration to the step of a distillation in which the student writes a share of the data."""

from __future__ import annotations

from typing import Any

from jaxdistill.config.objective import OnPolicyConfig
from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.text.ends import ends_of
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.step import TrainStep
from jaxdistill.generation.rollout import make_continue
from jaxdistill.models.registry import Model


def with_own_texts(
    step: TrainStep, config: Config, dataset: Dataset, student: Model, total_steps: int
) -> TrainStep:
    """Return a step whose student writes the configured share of the batches, or `step` itself."""
    if config.on_policy is None:
        return step
    return writing_step(
        step,
        config.on_policy,
        student,
        total_steps,
        eos_id=ends_of(config, dataset),
        pad_id=dataset.train.pad_id,
        vocabulary=tokens_of(student, dataset),
    )


def writing_step(
    step: TrainStep, wanted: OnPolicyConfig, student: Model, total_steps: int, **tokens: Any
) -> TrainStep:
    """Return the step of a student that writes; `tokens` are those of `make_continue`."""
    continue_texts = make_continue(
        student,
        prompt_tokens=wanted.prompt_tokens,
        max_new_tokens=wanted.max_new_tokens,
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p,
        **tokens,
    )
    return make_on_policy_step(step, continue_texts, value_schedule(wanted.share, total_steps))


def tokens_of(model: Model, dataset: Dataset) -> int | None:
    """Return how many columns of a model's head are tokens, None where all are."""
    columns, real = model.config.vocab_size, dataset.vocabulary
    return None if real is None or real >= columns else real
