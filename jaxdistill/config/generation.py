"""Texts that models write, as configured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from jaxdistill.config.base import (
    Fraction,
    NonNegativeFloat,
    PositiveInt,
    ScheduleConfig,
    Section,
    check_ends,
)


class SamplingConfig(Section):
    """How a language model goes on with prompts of the data.

    A text ends at the tokenizer's end token, and at `eos_token_id` of the models'
    `generation_config.json`; a temperature, top_p and the like in such a file are not applied.
    """

    prompt_tokens: PositiveInt = 32
    """Longest prompt in tokens: the first ones of plain text, the last ones before the answer of a
    chat."""
    max_new_tokens: PositiveInt | None = None
    """Largest number of tokens to write; by default as many as fit into a row of
    `data.max_length`."""
    temperature: NonNegativeFloat = 1.0
    """Number that divides the logits before a token is drawn; 0 takes the likeliest token each
    time."""
    top_k: PositiveInt | None = None
    """Number of the likeliest tokens to draw from; all by default."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Probability that the likeliest tokens to draw from have together; all tokens by default."""

    @model_validator(mode="after")
    def _samples(self) -> SamplingConfig:
        for name in ("top_k", "top_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: has no effect at temperature 0, which takes the likeliest token; "
                    "drop one of the two"
                )
        return self


class OnPolicyConfig(SamplingConfig):
    """Distilling on texts that the student writes (generalized knowledge distillation)."""

    share: Fraction | ScheduleConfig = 0.5
    """Share of the batches that the student writes; lambda in Agarwal et al. 2023."""

    @field_validator("share")
    @classmethod
    def _is_a_share(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        wanted = "a share between 0 (the data only) and 1 (the student's texts only)"
        check_ends(value, wanted, lambda end: 0 <= end <= 1)
        return value


class GenerateConfig(SamplingConfig):
    """Texts that `jaxdistill generate` lets the teacher write, to train on."""

    examples: PositiveInt | None = None
    """Number of prompts to continue, the first of the training data; all by default."""
    batch_size: PositiveInt = 32
    """Number of prompts continued at once."""
    seed: int = 0
    """Seed of the draws of tokens."""
