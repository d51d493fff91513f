"""The part of the schema that says how to train: updates, checkpoints, telemetry and devices."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from jaxdistill.config.base import (
    Dtype,
    NonNegativeFloat,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    Section,
)
from jaxdistill.types import Json


def _positive_or_all(value: int) -> int:
    if value == 0 or value < -1:
        raise ValueError(f"got {value}, expected -1 (all devices) or a positive number")
    return value


def _is_a_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"got {value!r}, expected a regular expression: {error}") from None
    return value


Size = Annotated[int, AfterValidator(_positive_or_all)]
Pattern = Annotated[str, AfterValidator(_is_a_pattern)]


class TrainConfig(Section):
    """One stage of training: the teacher's fine-tune or the student's run."""

    epochs: PositiveFloat = 3.0
    """Passes over the training data, where `steps` is not given."""
    steps: PositiveInt | None = None
    """Exact number of updates; overrides `epochs`."""
    examples: PositiveInt | None = None
    """Number of training examples to train on (drawn once, by `data.split_seed`); all by
    default."""
    batch_size: PositiveInt = 32
    """Examples per update, over all devices and microbatches."""
    accumulate: PositiveInt = 1
    """Microbatches into which each update's examples are cut to save memory; the result stays the
    same."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate, after the warm-up."""
    optimizer: Optimizer = "adamw"
    """Optimizer, by its name in optax."""
    optimizer_options: Json = Field(default_factory=dict)
    """Further keyword arguments of the optimizer, such as `b2: 0.95`."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after the warm-up."""
    warmup: NonNegativeFloat = 0.06
    """Length of the warm-up: a share of the run when below 1, else a number of steps."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of the optimizers that have one."""
    no_decay: tuple[str, ...] = ("bias", "scale", "norm")
    """Words; parameters whose path contains one of them are not decayed."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest global norm of the gradient; null does not clip."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Factor of the learning rate from each layer to the one below it; the last layer is two steps
    below the head, as in ELECTRA."""
    freeze: tuple[Pattern, ...] = ()
    """Regular expressions; parameters whose path matches, such as `student/layers/up/kernel`, are
    not trained. A layer's number follows its path: `layers/.*/[0-2]$` freezes the first three."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of an exponential moving average of the parameters, which is evaluated and handed on;
    null keeps none."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout rate that replaces all rates of the model; null leaves them."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations; once per epoch by default."""
    early_stopping: PositiveInt | None = None
    """Stop after this many evaluations without a better metric."""
    keep: Literal["best", "last"] = "best"
    """Parameters that a stage hands on: those of the best evaluation, or the last."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters and optimizer stay float32."""
    remat: bool = False
    """Recompute layers in the backward pass to save memory."""
    used_vocabulary: bool = True
    """Train only the embedding rows of tokens that occur in the data."""
    unroll: bool | None = None
    """Run layers one by one instead of scanning a stack; faster, and the default, on CPU."""

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            near = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ValueError(
                f"accumulate: got {self.accumulate}, expected a divisor of batch_size "
                f"{self.batch_size}; one of {near}"
            )
        return self


class CheckpointConfig(Section):
    """How often state is saved and what is kept."""

    every: PositiveInt | None = None
    """Steps between checkpoints, beside those that `train.keep: best` saves at every evaluation."""
    every_seconds: PositiveFloat = 120.0
    """Seconds after which a checkpoint is saved in any case."""
    keep_last: PositiveInt = 2
    """Number of the latest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the checkpoint of the best evaluation, too."""


class TelemetryConfig(Section):
    """Where the metrics of a run go while it runs; `metrics.jsonl` is always written."""

    log_every: PositiveInt = 20
    """Steps between rows of metrics, which is when they are fetched from the device."""
    progress: Literal["auto", "live", "plain", "none"] = "auto"
    """Display of the progress: a live line, plain lines, or nothing; `auto` chooses by the
    terminal."""
    tensorboard: bool = False
    """Write TensorBoard event files, too."""
    wandb_project: str | None = None
    """Weights & Biases project to log to, too."""


class ParallelConfig(Section):
    """How a step is laid over devices: sizes of the mesh's axes, one of them -1 for all left."""

    strategy: Literal["jit", "pmap"] = "jit"
    """`jit` on a mesh, or `pmap` for whole copies on the devices of one process."""
    data: Size = -1
    """Size of the axis whose devices hold parts of the batch, each with a copy of the
    parameters."""
    fsdp: Size = 1
    """Size of the axis whose devices hold parts of the batch and share the parameters and the
    optimizer's state."""
    sequence: Size = 1
    """Size of the axis whose devices hold parts of each row, for long rows."""
    tensor: Size = 1
    """Size of the axis whose devices hold parts of heads, feed-forward channels and vocabulary."""
    share: Literal["parameters", "optimizer"] = "parameters"
    """Arrays of the student that `fsdp` splits: parameters and optimizer state (ZeRO-3), or only
    the latter (ZeRO-1)."""
    teacher: Literal["shared", "wide", "whole"] = "shared"
    """Placement of the frozen teacher: split over `fsdp` as the student is (`shared`), over `data`
    x `fsdp` (`wide`), or not (`whole`)."""
    teacher_memory: Literal["device", "host"] = "device"
    """Memory in which the frozen teacher lies; from the host's, every layer is fetched for its turn
    (TPU, GPU)."""
    attention: Literal["auto", "dense"] = "auto"
    """Attention of decoders over long rows: in blocks on TPU, or all scores of a row at once."""
    compilation_cache: bool = True
    """Keep compiled programs in the work directory's parent."""

    @model_validator(mode="before")
    @classmethod
    def _one_takes_the_rest(cls, values: object) -> object:
        others = ("fsdp", "sequence", "tensor")
        if isinstance(values, dict) and "data" not in values:
            return {"data": 1 if any(values.get(name) == -1 for name in others) else -1, **values}
        return values

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the mesh's axes by name."""
        return {name: getattr(self, name) for name in ("data", "fsdp", "sequence", "tensor")}

    @model_validator(mode="after")
    def _goes_together(self) -> ParallelConfig:
        if list(self.sizes.values()).count(-1) > 1:
            raise ValueError(
                f"got -1 (all devices that are left) for more than one axis: {self.sizes}, "
                "expected it once"
            )
        others = {name: size for name, size in self.sizes.items() if name != "data" and size != 1}
        if self.strategy == "pmap" and others:
            raise ValueError(
                f"strategy: got 'pmap' with {others}, expected 'jit': pmap keeps whole copies, "
                "split over data only"
            )
        return self
