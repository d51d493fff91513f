"""Objective terms and texts that models write, as configured, and what all sections share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

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
DECAYING = ("adamw", "adamaxw", "nadamw", "lamb", "lars", "lion", "sgd", "rmsprop")
"""Optimizers with weight decay."""


def _label_name(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(
            f"got {value}, as YAML reads yes, no, true and false; put quotes around the name"
        )
    return str(value) if isinstance(value, int | float) else value


LabelName = Annotated[str, BeforeValidator(_label_name)]
"""The name of a label, which may look like a number."""
Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]

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
OPTIONS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("label_smoothing",),
    "regression": (),
    "multilabel": (),
    "forward_kl": ("temperature",),
    "reverse_kl": ("temperature",),
    "jsd": ("temperature", "beta"),
    "total_variation": ("temperature",),
    "mse_logits": (),
    "bernoulli_kl": ("temperature",),
    "hidden_mse": ("layers",),
    "hidden_cosine": ("layers",),
    "attention_kl": ("layers",),
}
"""What each loss can be told, beside its weight."""
OF_SEVERAL_CLASSES = ("forward_kl", "reverse_kl", "jsd", "total_variation")
"""Losses of a distribution over classes: 0 wherever there is one output only."""
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

    @property
    def highest(self) -> float:
        """The largest value on the way; both shapes run straight from one end to the other."""
        return self.start if self.shape == "constant" else max(self.start, self.end)

    @model_validator(mode="after")
    def _moves(self) -> ScheduleConfig:
        if self.shape == "constant" and self.end != self.start:
            raise ValueError(
                f"end: got {self.end:g} for the shape 'constant', which stays at start, "
                f"{self.start:g}; choose 'linear' or 'cosine', or give the number alone"
            )
        return self


def _check_ends(value: float | ScheduleConfig, wanted: str, fits: Callable[[float], bool]) -> None:
    """Refuse a schedule with a value out of range; its largest and smallest are its ends."""
    if isinstance(value, ScheduleConfig):
        for name in ("start", "end"):
            if not fits(end := getattr(value, name)):
                raise ValueError(f"{name}: got {end:g}, expected {wanted}, as at every step")


class TermConfig(Section):
    """One weighted term of the distillation objective."""

    loss: LossName
    weight: NonNegativeFloat | ScheduleConfig = 1.0
    temperature: PositiveFloat | ScheduleConfig = 1.0
    """Divides both sides' logits; of the losses that compare distributions."""
    layers: dict[NonNegativeInt, NonNegativeInt] | None = None
    """`student_layer: teacher_layer` for losses on hidden states and attentions."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Mixture weight of `jsd`."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of every label that is spread over all classes; of `cross_entropy`."""

    @property
    def idle(self) -> tuple[str, ...]:
        """The options that this loss does not have."""
        every = ("temperature", "layers", "beta", "label_smoothing")
        return tuple(name for name in every if name not in OPTIONS[self.loss])

    @property
    def acts(self) -> bool:
        """Whether the weight is above 0 at some step."""
        weight = self.weight
        return (weight.highest if isinstance(weight, ScheduleConfig) else weight) > 0

    @field_validator("weight")
    @classmethod
    def _is_a_weight(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        _check_ends(value, "a number greater than or equal to 0", lambda end: end >= 0)
        return value

    @field_validator("temperature")
    @classmethod
    def _is_a_temperature(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        _check_ends(value, "a number greater than 0", lambda end: end > 0)
        return value

    @model_validator(mode="after")
    def _has_its_options(self) -> TermConfig:
        for name in self.idle:
            if name in self.model_fields_set:
                known = ", ".join(("weight", *OPTIONS[self.loss]))
                raise ValueError(
                    f"{name}: unknown key for the loss {self.loss!r}, which has {known}; drop it"
                )
        if "layers" in OPTIONS[self.loss] and not self.layers:
            raise ValueError(
                f"layers: got none for loss {self.loss!r}, expected a map "
                "student_layer: teacher_layer, e.g. layers: {0: 1, 1: 3, 2: 5}"
            )
        return self


class SamplingConfig(Section):
    """How a language model goes on with prompts of the data.

    Where a text ends is told by the tokenizer and by `eos_token_id` in the `generation_config.json`
    of the models; a temperature, top_p and the like in such a file are not applied.
    """

    prompt_tokens: PositiveInt = 32
    """Longest prompt: of plain text its first tokens, of a chat the last ones before the answer."""
    max_new_tokens: PositiveInt | None = None
    """Written at most; by default as many as fit into a row of `data.max_length`."""
    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token each time."""
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None

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
    """Of the batches, those that the student writes; lambda in Agarwal et al. 2023."""

    @field_validator("share")
    @classmethod
    def _is_a_share(cls, value: float | ScheduleConfig) -> float | ScheduleConfig:
        wanted = "a share between 0 (the data only) and 1 (the student's texts only)"
        _check_ends(value, wanted, lambda end: 0 <= end <= 1)
        return value


class GenerateConfig(SamplingConfig):
    """Texts that `jaxdistill generate` lets the teacher write, to train on."""

    examples: PositiveInt | None = None
    """Prompts: the first of the training data; all by default."""
    batch_size: PositiveInt = 32
    """Prompts continued at once."""
    seed: int = 0
