"""The part of the schema that says how to train: updates, checkpoints, telemetry and devices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from jaxdistill.config.base import (
    Dtype,
    NonNegativeFloat,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    Section,
)


def _positive_or_all(value: int) -> int:
    if value == 0 or value < -1:
        raise ValueError(f"got {value}, expected -1 (all devices) or a positive number")
    return value


Size = Annotated[int, AfterValidator(_positive_or_all)]


class TrainConfig(Section):
    """One stage of training: the teacher's fine-tune or the student's run."""

    epochs: PositiveFloat = 3.0
    steps: PositiveInt | None = None
    """Exact number of updates; overrides `epochs`."""
    examples: PositiveInt | None = None
    """Train on only this many of the training examples (drawn once, by `data.split_seed`)."""
    batch_size: PositiveInt = 32
    """Examples per update, over all devices and microbatches."""
    accumulate: PositiveInt = 1
    """Microbatches per update."""
    learning_rate: PositiveFloat = 5e-5
    optimizer: Optimizer = "adamw"
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: NonNegativeFloat = 0.06
    """Share of the run when below 1, else a number of steps."""
    weight_decay: NonNegativeFloat = 0.01
    no_decay: tuple[str, ...] = ("bias", "scale", "norm")
    """Parameters whose path contains one of these words are not decayed."""
    clip_norm: PositiveFloat | None = 1.0
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Learning rate factor from each layer to the one below it; the last layer is two steps below
    the head, as in ELECTRA."""
    freeze: tuple[str, ...] = ()
    """Regular expressions; parameters whose path matches, such as `student/layers/up/kernel`, are
    not trained. A layer's number follows its path: `layers/.*/[0-2]$` freezes the first three."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Overrides the model's own rates."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations; once per epoch by default."""
    early_stopping: PositiveInt | None = None
    """Stop after this many evaluations without a better metric."""
    keep: Literal["best", "last"] = "best"
    """Which parameters a stage hands on."""
    dtype: Dtype = "float32"
    """Compute type; parameters and optimizer stay float32."""
    remat: bool = False
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
    """Steps between checkpoints, beside those of `train.keep: best` with every evaluation."""
    every_seconds: PositiveFloat = 120.0
    """And at least this often."""
    keep_last: PositiveInt = 2
    keep_best: bool = True


class TelemetryConfig(Section):
    """What a run tells while it runs. JSONL is always written."""

    log_every: PositiveInt = 20
    progress: Literal["auto", "live", "plain", "none"] = "auto"
    tensorboard: bool = False
    wandb_project: str | None = None


class ParallelConfig(Section):
    """How a step is laid over devices: sizes of the mesh's axes, one of them -1 for all left."""

    strategy: Literal["jit", "pmap"] = "jit"
    """`pmap` for whole copies on the devices of one process; `jit` does everything else, too."""
    data: Size = -1
    """Parts of the batch, each with a copy of the parameters."""
    fsdp: Size = 1
    """Parts of the batch that also share the parameters and the optimizer's state."""
    sequence: Size = 1
    """Parts of each row, for long ones."""
    tensor: Size = 1
    """Parts of heads, feed-forward channels and vocabulary."""
    share: Literal["parameters", "optimizer"] = "parameters"
    """What `fsdp` splits of the student: parameters and optimizer state (ZeRO-3), or only the
    latter (ZeRO-1)."""
    teacher: Literal["shared", "wide", "whole"] = "shared"
    """The frozen teacher: split over `fsdp` as the student is, over `data` x `fsdp`, or not."""
    teacher_memory: Literal["device", "host"] = "device"
    """Where it lies; from the host's memory every layer is fetched for its turn (TPU, GPU)."""
    attention: Literal["auto", "dense"] = "auto"
    """Of decoders over long rows: in blocks on TPU, or all scores of a row at once."""
    compilation_cache: bool = True
    """Keep compiled programs in the work directory's parent."""

    @model_validator(mode="before")
    @classmethod
    def _one_takes_the_rest(cls, values: Any) -> Any:
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
