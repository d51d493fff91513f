"""The examples of one split as numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdistill.data.inputs.inputs import Inputs
from jaxdistill.files import hashing
from jaxdistill.files.hashing import SHORT, hash_text


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples as numbers.

    Attributes:
      labels: int32 [N], float32 [N] (regression), float32 [N, C] (multi-label), or the next token
        of each, int32 [N, T], -1 for none (language models, whose examples are packed rows).
      inputs: what the examples are, as their kind of input holds them.
      fingerprint: hash of the inputs and the labels.
    """

    labels: np.ndarray
    inputs: Inputs
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 [N]; 1 where an example is no row of tokens."""
        return self.inputs.lengths

    @property
    def texts(self) -> tuple[Sequence[str], ...]:
        """The texts as read, a column or two; none where the inputs are no texts."""
        return self.inputs.texts

    @property
    def truth(self) -> np.ndarray:
        """What predictions are measured against: the labels, or of packed rows the tokens to
        predict and the bytes they stand for, int64 [N, 2]."""
        return self.inputs.truth(self.labels)

    def text(self, example: int) -> tuple[str, ...]:
        """Return what an example was read as: its text or two, nothing for images."""
        return tuple(column[example] for column in self.texts)


def make_split(labels: np.ndarray, inputs: Inputs) -> Split:
    """Put inputs beside their labels."""
    return Split(labels, inputs, digest(labels, *inputs.hashed(subset=False)))


def take_examples(split: Split, rows: np.ndarray) -> Split:
    """Return a split of some of the examples, int64 [n], in the order of `rows`."""
    labels, inputs = split.labels[rows], split.inputs.take(rows)
    return Split(labels, inputs, digest(labels, *inputs.hashed(subset=True)))


def digest(*arrays: np.ndarray) -> str:
    """Hash arrays with their shapes and types; the same in every process."""
    pieces = ((f"{a.dtype.str}{a.shape}".encode(), np.ascontiguousarray(a).data) for a in arrays)
    return hashing.start(piece for pair in pieces for piece in pair).hexdigest()[:SHORT]


def combined(splits: Mapping[str, Split]) -> str:
    """Hash what training reads: the splits for training and validation."""
    whole = "".join(splits[part].fingerprint for part in ("train", "validation"))
    return hash_text(whole)[:SHORT]
