"""The sections `teacher` and `student`, and what a cache keeps of the teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from jaxdistill.config.base import Dtype, PositiveInt, Section
from jaxdistill.config.teacher_functions import read_function
from jaxdistill.types import Json


class TeacherConfig(Section):
    """The large model."""

    model: str | Json | None = None
    """A Hugging Face folder, or a mapping `{family: …}` to train from scratch."""
    function: Annotated[str | Json | None, BeforeValidator(read_function)] = None
    """In place of a model, a function that a plugin registered: its name, or a mapping of `name`
    and its options."""
    fresh_head: bool = False
    """Draw a new head for the task's labels, to be fine-tuned, whatever head the folder holds."""
    pooling: Literal["default", "first", "mean"] = "default"
    """What the head of an encoder reads: what its folder or else its family has it read, the first
    token, or the mean over all tokens."""
    dtype: Dtype = "float32"
    """Compute type of the frozen teacher while distilling."""
    storage: Literal["dtype", "int8"] = "dtype"
    """Type of the frozen teacher's kernels in memory: that of `dtype`, or int8 at half of
    bfloat16's memory."""
    precompute: bool | None = None
    """Run the teacher once over the training data instead of at every step; by default where the
    objective reads its logits only and examples are not augmented."""
    cache: str | None = None
    """Folder of a cache that `jaxdistill cache` wrote: its outputs replace the teacher's."""


class CacheConfig(Section):
    """What a cache keeps of the teacher; in a config, a run writes it and trains from it."""

    codec: Literal["full", "topk", "sampled", "hidden"] | None = None
    """Part of the outputs that is kept: all logits, the largest with the mass of the rest, an
    unbiased sample, or hidden states; `sampled` for language models and `full` for others when not
    given."""
    k: PositiveInt = 64
    """Number of classes that `topk` keeps."""
    samples: Annotated[int, Field(ge=2)] = 18
    """Number of classes that `sampled` keeps."""
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "int8"] | None = None
    """Type in which `full` (float32 by default) and `hidden` (int8) are kept."""
    seed: int = 0
    """Seed of the draws of `sampled`."""


class StudentConfig(Section):
    """The small model: a folder, a mapping, or a part of the teacher: layers, width or both."""

    model: str | Json | None = None
    """Folder, or mapping `{family: …}`, of a student that is no part of the teacher."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | PositiveInt | None = None
    """Teacher layers to start from: their indices, or how many (evenly spaced)."""
    hidden_size: PositiveInt | None = None
    """Width of a student cut from its teacher, a decoder: the channels that carry most of it are
    kept."""
    heads: PositiveInt | None = None
    """Number of attention heads of a student cut from its teacher, a decoder."""
    mlp_size: PositiveInt | None = None
    """Number of feed-forward channels of a student cut from its teacher, a decoder."""
    calibration_batches: PositiveInt = 16
    """Number of training batches on which is measured which channels and heads carry most."""
    initialize_from: Literal["pretrained", "finetuned"] = "pretrained"
    """State of the teacher that the layers come from: before or after its fine-tune."""
    fresh_head: bool = False
    """Draw a new head for the task's labels, whatever head the folder or the teacher holds."""
    pooling: Literal["default", "first", "mean"] = "default"
    """What the head of an encoder reads; where transformers has no such classifier, the export is a
    sentence-transformers folder whose `encode` gives the logits."""

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a student narrower than its teacher; empty for one that is not."""
        named = {name: getattr(self, name) for name in ("hidden_size", "heads", "mlp_size")}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def from_teacher(self) -> bool:
        """Whether the student starts as a part of the teacher."""
        return self.layers is not None or bool(self.sizes)

    @model_validator(mode="after")
    def _one_origin(self) -> StudentConfig:
        if self.model is not None and self.from_teacher:
            name = "layers" if self.layers is not None else next(iter(self.sizes))
            raise ValueError(
                f"{name}: got both student.model and student.{name}, expected one of them; "
                "drop student.model to start from the teacher"
            )
        if self.model is None and not self.from_teacher:
            raise ValueError(
                "got neither student.model nor student.layers, expected one of them; "
                "e.g. student.layers=[0,2,4]"
            )
        return self
