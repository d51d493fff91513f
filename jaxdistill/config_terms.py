"""Objective terms and texts that models write, as configured, and what all sections share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Task = Literal["classification", "multilabel", "regression", "language_model"]
Optimizer = Literal[
    "adamw",
    "adam",
    "adamax",
    "adamaxw",
    "adafactor",
    "adagrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "radam",
    "rmsprop",
    "sgd",
]
Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

SUPERVISED_LOSSES = ("cross_entropy", "regression", "multilabel")
LOGIT_LOSSES = ("forward_kl", "reverse_kl", "jsd", "total_variation", "mse_logits", "bernoulli_kl")
CACHED_LOSSES: dict[str, tuple[str, ...]] = {
    "topk": ("forward_kl", "reverse_kl", "jsd", "total_variation"),
    "sampled": ("forward_kl",),
}
"""Losses that can be computed from a part of the teacher's distribution, by codec."""
HIDDEN_LOSSES = ("hidden_mse", "hidden_cosine")
ATTENTION_LOSSES = ("attention_kl",)
FUSED_LOSSES = ("cross_entropy", "forward_kl", "reverse_kl", "jsd", "total_variation")
"""Losses that can work from hidden states and heads, without logits."""
LossName = Literal[
    "cross_entropy",
    "regression",
    "multilabel",
    "forward_kl",
    "reverse_kl",
    "jsd",
    "total_variation",
    "mse_logits",
    "bernoulli_kl",
    "hidden_mse",
    "hidden_cosine",
    "attention_kl",
]
TASK_LOSSES: dict[str, str] = {
    "classification": "cross_entropy",
    "regression": "regression",
    "multilabel": "multilabel",
    "language_model": "cross_entropy",
}
PROBLEM_TYPES: dict[str, str] = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
}
"""What a `config.json` calls the task of a classification head."""
Judgement = Literal["teacher_skill", "tokenizer"]
"""Fatal findings that a run can go on with, since nothing breaks."""
LOWER_IS_BETTER = ("mse", "perplexity", "bits_per_byte")


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ScheduleConfig(Section):
    """A value that moves from `start` to `end` and then stays.

    `over` is a share of the run when at most 1.0, else a number of steps.
    """

    shape: Literal["constant", "linear", "cosine"] = "linear"
    start: float
    end: float
    over: PositiveFloat = 1.0


class TermConfig(Section):
    """One weighted term of the distillation objective."""

    loss: LossName
    weight: NonNegativeFloat | ScheduleConfig = 1.0
    temperature: PositiveFloat | ScheduleConfig = 1.0
    layers: dict[int, int] | None = None
    """`student_layer: teacher_layer` for losses on hidden states and attentions."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Mixture weight of `jsd`."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _layers_where_needed(self) -> TermConfig:
        needs = self.loss in HIDDEN_LOSSES + ATTENTION_LOSSES
        if needs and not self.layers:
            raise ValueError(
                f"layers: got none for loss {self.loss!r}, expected a map "
                "student_layer: teacher_layer, e.g. layers: {0: 1, 1: 3, 2: 5}"
            )
        if self.layers and not needs:
            raise ValueError(
                f"layers: got a map for loss {self.loss!r}, which has no layers; drop it"
            )
        return self


class SamplingConfig(Section):
    """How a language model goes on with prompts of the data."""

    prompt_tokens: PositiveInt = 32
    """Longest prompt: of plain text its first tokens, of a chat the last ones before the answer."""
    max_new_tokens: PositiveInt | None = None
    """Written at most; by default as many as fit into a row of `data.max_length`."""
    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token each time."""
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None


class OnPolicyConfig(SamplingConfig):
    """Distilling on texts that the student writes (generalized knowledge distillation)."""

    share: Fraction | ScheduleConfig = 0.5
    """Of the batches, those that the student writes; lambda in Agarwal et al. 2023."""

    @field_validator("share")
    @classmethod
    def _is_a_share(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        if isinstance(value, ScheduleConfig) and not all(
            0 <= end <= 1 for end in (value.start, value.end)
        ):
            raise ValueError(
                f"got {value.start} to {value.end}, expected both between 0 (the data only) and 1 "
                "(the student's texts only)"
            )
        return value


class GenerateConfig(SamplingConfig):
    """Texts that `jaxdistill generate` lets the teacher write, to train on."""

    examples: PositiveInt | None = None
    """Prompts: the first of the training data; all by default."""
    batch_size: PositiveInt = 32
    """Prompts continued at once."""
    seed: int = 0
