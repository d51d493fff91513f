"""The examples of one split as numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.data.reading.columns import Roles
from jaxdistill.data.reading.images import normalization
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Table
from jaxdistill.data.text.tokenize import tokenize
from jaxdistill.errors import DataError
from jaxdistill.files import hashing
from jaxdistill.files.hashing import SHORT, hash_text


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples as numbers; which of the fields are set depends on the modality.

    Attributes:
      labels: int32 [N], float32 [N] (regression), float32 [N, C] (multi-label), or the next token
        of each, int32 [N, T], -1 for none (language models, whose examples are packed rows).
      lengths: tokens per example, int64 [N]; 1 for images and features.
      fingerprint: hash of the inputs and the labels.
      tokens: int32 [sum of lengths]; example `i` is `tokens[offsets[i]:offsets[i + 1]]`.
      token_types: uint8, beside `tokens`.
      offsets: int64 [N + 1].
      pad_id: the tokenizer's padding token.
      images: float32 [N, H, W, C].
      fill: value of a black pixel after normalization, float32 [C].
      features: float32 [N, D].
      segments: which document of its row each token is of, from 1, int32 beside `tokens`.
      sizes: bytes of text that each label stands for, int32 [N, T].
      texts: the texts as read, a column or two, for reports.
      cut: rows that were longer than the limit.
    """

    labels: np.ndarray
    lengths: np.ndarray
    fingerprint: str
    tokens: np.ndarray | None = None
    token_types: np.ndarray | None = None
    offsets: np.ndarray | None = None
    pad_id: int = 0
    images: np.ndarray | None = None
    fill: np.ndarray | None = None
    features: np.ndarray | None = None
    segments: np.ndarray | None = None
    sizes: np.ndarray | None = None
    texts: tuple[Sequence[str], ...] = ()
    cut: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def truth(self) -> np.ndarray:
        """What predictions are measured against: the labels, or of packed rows the tokens to
        predict and the bytes they stand for, int64 [N, 2]."""
        if self.sizes is None:
            return self.labels
        return np.stack([(self.labels >= 0).sum(1), self.sizes.sum(1)], axis=1)

    def text(self, example: int) -> tuple[str, ...]:
        """Return what an example was read as: its text or two, nothing for images."""
        return tuple(column[example] for column in self.texts)


def take_examples(split: Split, rows: np.ndarray) -> Split:
    """Return a split of some of the examples, in the order of `rows`."""
    texts = tuple([column[row] for row in rows] for column in split.texts)
    taken = {"labels": split.labels[rows], "lengths": split.lengths[rows], "texts": texts}
    if split.tokens is not None and split.token_types is not None and split.offsets is not None:
        ends = np.cumsum(taken["lengths"])
        # Each token's place: its example's start, then one further for each token of the example.
        starts = np.repeat(split.offsets[rows] - (ends - taken["lengths"]), taken["lengths"])
        places = starts + np.arange(ends[-1])
        taken["tokens"] = split.tokens[places]
        taken["token_types"] = split.token_types[places]
        if split.segments is not None:
            taken["segments"] = split.segments[places]
        taken["offsets"] = np.concatenate([[0], ends])
    for name in ("images", "features", "sizes"):
        whole = getattr(split, name)
        if whole is not None:
            taken[name] = whole[rows]
    inputs = [taken[name] for name in ("tokens", "segments", "images", "features") if name in taken]
    taken["fingerprint"] = digest(taken["labels"], *inputs)
    return dataclasses.replace(split, **taken)


def text_split(
    table: Table,
    roles: Roles,
    labels: np.ndarray,
    *,
    max_length: int,
    tokenizer_folder: Path,
    cache_dir: Path | None,
) -> Split:
    """Tokenize a table's texts.

    Raises:
      DataError: a text is missing.
    """
    texts = tuple(read_texts(table, name) for name in roles.inputs)
    tokens = tokenize(
        texts[0],
        texts[1] if len(texts) > 1 else None,
        folder=tokenizer_folder,
        max_length=max_length,
        cache_dir=cache_dir,
    )
    return Split(
        labels=labels,
        lengths=np.diff(tokens.offsets),
        fingerprint=digest(labels, tokens.ids, tokens.types, tokens.offsets),
        tokens=tokens.ids,
        token_types=tokens.types,
        offsets=tokens.offsets,
        pad_id=tokens.pad_id,
        texts=texts,
        cut=tokens.cut,
    )


def image_split(images: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing) -> Split:
    """Put images that are read and preprocessed beside their labels."""
    mean, std = normalization(preprocessing, images.shape[-1])
    return Split(
        labels=labels,
        lengths=np.ones(len(labels), np.int64),
        fingerprint=digest(labels, images),
        images=images,
        fill=((0.0 - mean) / std).astype(np.float32),
    )


def feature_split(table: Table, roles: Roles, labels: np.ndarray) -> Split:
    """Take a table's vectors as they are.

    Raises:
      DataError: they are not finite numbers.
    """
    values = np.asarray(table.columns[roles.inputs[0]])
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise DataError(f"{table.source}: got {values.dtype} features, expected finite numbers")
    features = values.astype(np.float32)
    return Split(
        labels=labels,
        lengths=np.ones(len(labels), np.int64),
        fingerprint=digest(labels, features),
        features=features,
    )


def read_texts(table: Table, column: str) -> list[str]:
    """Return a column of texts without the white space around them.

    Raises:
      DataError: a row holds something else than text.
    """
    texts = []
    for row, value in enumerate(table.columns[column]):
        if not isinstance(value, str):
            raise DataError(f"{table.at(row)}: got {column}={value!r}, expected text; drop the row")
        texts.append(value.strip())
    return texts


def digest(*arrays: np.ndarray) -> str:
    """Hash arrays with their shapes and types; the same in every process."""
    pieces = ((f"{a.dtype.str}{a.shape}".encode(), np.ascontiguousarray(a).data) for a in arrays)
    return hashing.start(piece for pair in pieces for piece in pair).hexdigest()[:SHORT]


def combined(splits: Mapping[str, Split]) -> str:
    """Hash what training reads: the splits for training and validation."""
    whole = "".join(splits[part].fingerprint for part in ("train", "validation"))
    return hash_text(whole)[:SHORT]
