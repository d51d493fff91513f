"""The section `data`: where examples come from and how they become batches."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from jaxdistill.config.base import LabelName, PositiveInt, Section
from jaxdistill.config.inputs import InputsConfig, read_inputs
from jaxdistill.config.sources import check_source
from jaxdistill.modalities.registry import modalities
from jaxdistill.types import Json


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


def altering(data: DataConfig) -> Json:
    """Return the options that alter training examples at random, by their names in a config."""
    named = data.modality
    found = {}
    for one in modalities().values():
        for key in one.altering_keys if named in (None, one.name) else ():
            own = key in one.options.model_fields
            value = getattr(data.inputs if own else data, key, None)
            if value:
                found[f"data.inputs.{key}" if own else f"data.{key}"] = value
    return found
