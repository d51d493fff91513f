"""A configuration to the step of a distillation in which the student writes a share of the data."""

from __future__ import annotations

from typing import Any

from jaxdistill.config.generation import OnPolicyConfig
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.optimizer import value_schedule
from jaxdistill.engine.step import TrainStep
from jaxdistill.generation.rollout import make_continue
from jaxdistill.models.registry import Model


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
