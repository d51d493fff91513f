"""The whole configuration schema, checked before anything heavy is imported."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from jaxdistill.config.base import (
    Dtype,
    Judgement,
    LabelName,
    PositiveInt,
    Section,
)
from jaxdistill.config.checks import (
    check_fresh_heads,
    check_language_term,
    check_metric,
    check_objective,
    check_on_policy,
    check_task_losses,
    check_teacher,
)
from jaxdistill.config.effects import check_effects
from jaxdistill.config.generation import GenerateConfig, OnPolicyConfig
from jaxdistill.config.inputs import InputsConfig, read_inputs
from jaxdistill.config.objective import TermConfig, make_term, read_term
from jaxdistill.config.sources import check_source
from jaxdistill.config.teacher_functions import read_function
from jaxdistill.config.training import (
    CheckpointConfig,
    ParallelConfig,
    TelemetryConfig,
    TrainConfig,
)
from jaxdistill.errors import did_you_mean
from jaxdistill.tasks.registry import task_named, tasks
from jaxdistill.tasks.task import Task
from jaxdistill.types import Json

__all__ = [
    "CacheConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "ParallelConfig",
    "StudentConfig",
    "TeacherConfig",
    "TelemetryConfig",
    "TokenizerConfig",
    "TrainConfig",
]


class TokenizerConfig(Section):
    """A byte-level BPE that is trained on the training texts on first use."""

    vocabulary: Annotated[int, Field(ge=257)] = 4096
    """Number of tokens, with the 256 bytes and the special ones: the end of a document, or for a
    classifier the five that BERT has."""


class DataConfig(Section):
    """Where examples come from and how they become batches."""

    source: str = "files"
    """`files`, `digits` or `stdlib` (embedded), a registered source, or the name of a Hugging Face
    dataset."""
    subset: str | None = None
    """Configuration name of a Hugging Face dataset."""
    train: str | tuple[str, ...] | None = None
    """Training data: a file, a pattern such as `shards/*.parquet`, a list of them, a folder, or a
    split of the Hugging Face dataset."""
    validation: str | tuple[str, ...] | None = None
    """Held-out data, named as `train` is, or the name of a split in the folder `train`."""
    test: str | tuple[str, ...] | None = None
    """Data that are measured at the end only, named as `train` is."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of `train` held out where `validation` is not given."""
    format: Literal[
        "auto", "tsv", "csv", "jsonl", "parquet", "arrow", "label_text", "npz", "images", "text"
    ] = "auto"
    """Format of the files; by default found from their endings."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the columns, for CSV and TSV files without a header."""
    modality: str | None = None
    """Kind of input, such as `text` or one that a plugin adds; by default what columns show."""
    inputs: SerializeAsAny[InputsConfig] | None = None
    """Options of a kind of input that has some, under its name in `modality`."""
    encoding: str | None = None
    """Encoding of text files, such as `gbk`; by default found out, or UTF-8."""
    text: str | None = None
    """Column of texts; inferred from the usual names where not given."""
    text_pair: str | None = None
    """Column of second texts, for pairs; inferred from the usual names where not given."""
    prompt: str | None = None
    """Column that a language model reads before `completion`, and does not learn to write."""
    completion: str | None = None
    """Column that is learned behind `prompt`, to which it is joined as it is."""
    messages: str | None = None
    """Column of chats, for a language model; only the assistant's turns are learned."""
    image: str | None = None
    """Column of images; inferred from the usual names where not given."""
    label: str | None = None
    """Column of labels; inferred from the usual names where not given."""
    labels: tuple[LabelName, ...] | None = None
    """Names of the data's labels in the order of its ids, matched with the teacher's names;
    inferred from the teacher or the data when not given."""
    positive: LabelName | None = None
    """Label whose F1 is measured; of two labels the one that is positive by its name (`yes`, or
    the other of `normal`), else the second, and the mean over labels where there are more."""
    max_length: PositiveInt = 128
    """Longest row in tokens; longer ones are cut and counted, documents of a language model go on
    in further rows."""
    tokenizer: str | TokenizerConfig | None = None
    """Folder of a tokenizer, or `{vocabulary: N}` to train one on the training texts; by default
    that of the teacher's folder, else of the student's."""
    streaming: bool = False
    """Read a Hugging Face dataset document by document, up to `train_examples`."""
    layout: Literal["bucket", "pack"] = "bucket"
    """Batches of one example per row in a few lengths (`bucket`), or of rows that several examples
    share (`pack`)."""
    buckets: Annotated[int, Field(ge=1, le=8)] = 8
    """Largest number of row lengths, each of which is compiled once."""
    tokens_per_batch: PositiveInt | None = None
    """Largest number of tokens in a batch, padding included: rows of a bucket = this // its
    length."""
    train_examples: PositiveInt | None = None
    """Number of training examples or documents to use (drawn once, by `split_seed`); all by
    default."""
    split_seed: int = 0
    """Seed of the held-out split and of the examples that are drawn."""
    eval_batch_size: PositiveInt = 128
    """Examples per batch of an evaluation; has no part in its result."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Size in pixels that images are brought to: the side of a square, or height and width; by
    default as the image processor of the teacher's (else the student's) folder says."""
    image_mean: tuple[float, ...] | None = None
    """Mean that is subtracted from pixels of 0 to 1, one number or one per channel; by default as
    the image processor says."""
    image_std: tuple[float, ...] | None = None
    """Deviation that pixels are divided by at last, one number or one per channel; by default as
    the image processor says."""
    image_max: Annotated[float, Field(gt=0.0)] | None = None
    """Value of a white pixel, where the files do not say: in arrays of fractions beyond 1, or of
    whole numbers that are neither 8 nor 16 bits wide."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Largest random translation of training images, in pixels."""
    cache: bool = True
    """Keep tokenized data in the work directory."""
    prefetch: PositiveInt = 2
    """Number of batches moved to the device ahead of the step."""

    @model_validator(mode="before")
    @classmethod
    def _reads_inputs(cls, values: object) -> object:
        return read_inputs(values)

    @model_validator(mode="after")
    def _source_has_data(self) -> DataConfig:
        check_source(self.source)
        if self.source == "files" and self.train is None:
            raise ValueError(
                "train: got nothing, expected a file or folder; "
                "give it in the config or as data.train=PATH"
            )
        self._has_effect()
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns: got {list(self.columns)}, expected each name once")
        if self.encoding is not None and not _is_encoding(self.encoding):
            raise ValueError(
                f"encoding: got {self.encoding!r}, expected one that Python knows, such as utf-8, "
                "cp1252, gbk or shift_jis"
            )
        if (self.prompt is None) != (self.completion is None):
            given = "prompt" if self.completion is None else "completion"
            raise ValueError(
                f"{given}: got only data.{given}, expected data.prompt and data.completion together"
            )
        if self.tokens_per_batch is not None and self.tokens_per_batch < self.max_length:
            raise ValueError(
                f"tokens_per_batch: got {self.tokens_per_batch}, expected at least max_length "
                f"{self.max_length}, so that one row fits"
            )
        return self

    def _has_effect(self) -> None:
        """Refuse what the source has no use for."""
        idle = ("subset", "streaming") if self.source == "files" else ("columns", "encoding")
        for name in idle:
            if getattr(self, name):
                raise ValueError(
                    f"{name}: has no effect with source={self.source}; drop it, or set data.source"
                )
        for name in ("train", "validation", "test"):
            if self.source != "files" and isinstance(getattr(self, name), tuple):
                raise ValueError(
                    f"{name}: got a list with source={self.source}, expected the name of one split"
                )


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name) is not None
    except LookupError:
        return False


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


class Config(Section):
    """A whole distillation run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "run"
    """Name of the run, and of its work directory."""
    description: str = ""
    """Description of the run, for the report."""
    task: str = "classification"
    """What is learned: `classification`, `multilabel`, `regression`, `language_model`, or a task
    that a plugin brings."""
    metric: str | None = None
    """Metric that ranks models; by default the first that `jaxdistill methods` lists for the task,
    such as accuracy, exact_match, spearman or perplexity."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds, each of which trains one student alone and one distilled."""
    data: DataConfig
    """Source of the examples, and the way that they become batches."""
    teacher: TeacherConfig
    """Large model that teaches."""
    student: StudentConfig
    """Small model that learns."""
    finetune: TrainConfig | None = TrainConfig()
    """Training of the teacher; null takes the teacher as it is."""
    train: TrainConfig = TrainConfig()
    """Training of the student, with and without the teacher."""
    objective: dict[str, Annotated[SerializeAsAny[TermConfig], BeforeValidator(read_term)]] = Field(
        default_factory=dict
    )
    """Weighted terms by name, each with a `loss`; by default the usual pair of the task."""
    losses: Literal["fused", "dense"] = "fused"
    """How a language model's losses come from hidden states: in chunks of tokens, so that logits
    `[tokens, vocabulary]` never exist, or from whole logits."""
    cache: CacheConfig | None = None
    """Keep the teacher's outputs over the training data on disk, and train from them."""
    on_policy: OnPolicyConfig | None = None
    """Let the student write a share of the batches that it is distilled on."""
    accept: tuple[Judgement, ...] = ()
    """Fatal findings of the doctor to go on with all the same, e.g. `[teacher_skill]`."""
    generate: GenerateConfig = GenerateConfig()
    """Settings of `jaxdistill generate`; have no part in a run."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints: how often, and which are kept."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Metrics: how often, and where they go."""
    parallel: ParallelConfig = ParallelConfig()
    """Layout over devices."""

    @property
    def task_record(self) -> Task:
        """What the task says of itself."""
        return task_named(self.task)

    @property
    def ranking_metric(self) -> str:
        """The metric that ranks models."""
        return self.metric or self.task_record.metrics[0].name

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the ranking metric is better."""
        return self.task_record.metric(self.ranking_metric).higher_is_better

    @property
    def default_codec(self) -> Literal["sampled", "full"]:
        """How a cache keeps the teacher's outputs where the config does not say."""
        return "sampled" if self.task_record.over_vocabulary else "full"

    @property
    def fuses(self) -> bool:
        """Whether losses work from hidden states, so that no logits are made."""
        return self.task_record.over_vocabulary and self.losses == "fused"

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The objective's terms: those given, or the task's usual pair."""
        if self.objective:
            return self.objective
        task = self.task_record
        soft, hard = make_term(**task.soft, weight=0.5), make_term(task.loss, weight=0.5)
        return {"soft": soft, "hard": hard}

    @property
    def supervised_terms(self) -> dict[str, TermConfig]:
        """The terms on labels alone, of weight 1: what fine-tune and baseline train on."""
        given = {k: term for k, term in self.terms.items() if term.method.reads == "labels"}
        given = given or {"hard": make_term(self.task_record.loss)}
        return {k: term.model_copy(update={"weight": 1.0}) for k, term in given.items()}

    @field_validator("task")
    @classmethod
    def _is_a_task(cls, value: str) -> str:
        known = list(tasks())
        if value not in known:
            names = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
            raise ValueError(f"got {value!r}, expected {names}.{did_you_mean(value, known)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        check_teacher(self)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: got {list(self.seeds)}, expected each seed once")
        check_task_losses(self)
        for name, term in self.objective.items():
            check_language_term(self, name, term)
        check_objective(self)
        check_on_policy(self)
        check_fresh_heads(self)
        check_metric(self)
        check_effects(self)
        return self
