"""What the inputs of a split answer, whatever kind they are, and inputs that are plain arrays."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.buckets import choose_buckets
from jaxdistill.data.batching.draws import WHOLE, Part
from jaxdistill.data.order import Purpose, integers, stream
from jaxdistill.errors import ConfigError
from jaxdistill.types import Json

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chance:
    """Random numbers of one training batch, which the seed and the step alone decide.

    Attributes:
      seed, epoch, position: the run's seed, and which batch of which epoch it is.
      rows: rows of the whole batch.
      part: the rows that are made; each gets the same numbers as in the whole batch.
    """

    seed: int
    epoch: int
    position: int
    rows: int
    part: Part = WHOLE

    def integers(self, count: int, below: int) -> np.ndarray:
        """Return `count` random integers from 0 to `below - 1` for each row, int64 [count, B]."""
        bits = stream(self.seed, self.epoch, Purpose.AUGMENT, self.position)
        whole = integers(bits, count * self.rows, below).reshape(count, self.rows)
        return np.stack([self.part.take(numbers) for numbers in whole])


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Examples of several tokens one after another, to be laid into rows that they share.

    Attributes:
      fields: a batch field's values int [tokens] and what pads it, by name.
      offsets: where examples begin and end, int64 [N + 1].
    """

    fields: Mapping[str, tuple[np.ndarray, int]]
    offsets: np.ndarray


class Inputs(ABC):
    """The inputs of N examples.

    Attributes:
      tokenized: whether they are tokens of a tokenizer, so that speed and padding count tokens.
      full_rows: whether rows are packed with documents already, and every token has a label.
      texts: the texts as read, a column or two, for reports.
      pad_id: the token that pads; 0 where there are no tokens.
    """

    tokenized: ClassVar[bool] = False
    full_rows: ClassVar[bool] = False
    texts: tuple[Sequence[str], ...] = ()
    pad_id: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: np.ndarray) -> Self:
        """Return some of the examples, int64 [n], in the order of `rows`."""

    @abstractmethod
    def batch(self, index: np.ndarray, length: int) -> Batch:
        """Return the batch fields of examples int64 [B], padded to `length` where they are rows."""

    @abstractmethod
    def example_bytes(self) -> Iterator[bytes]:
        """Yield what each example is known by in a cache: equal inputs, equal bytes."""

    @abstractmethod
    def hashed(self, *, subset: bool) -> tuple[np.ndarray, ...]:
        """Return the arrays that the fingerprint of a split, or of a subset of one, is of."""

    @abstractmethod
    def row_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of an example of that length in a batch, for the log and compilation."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 [N]; 1 where an example is no row of tokens."""
        return np.ones(len(self), np.int64)

    @property
    def places(self) -> int:
        """Labels of an example: 1, or one for each token of a row."""
        return 1

    def buckets(self, count: int, multiple: int) -> tuple[int, ...]:
        """Choose the lengths of batches, at most `count`, each a multiple of `multiple`."""
        return choose_buckets(self.lengths, count, multiple=multiple)

    def ragged(self) -> Ragged:
        """Return the tokens one after another.

        Raises:
          ConfigError: examples are no rows of tokens.
        """
        raise ConfigError("data.layout: got 'pack' for data without tokens, expected 'bucket'")

    def augment(self, batch: Batch, config: DataConfig, chance: Chance) -> Batch:
        """Return the fields of a training batch, altered at random as `data` asks for."""
        return batch

    def labelled(self, labels: np.ndarray, weight: np.ndarray) -> Batch:
        """Return what a batch says of its labels `[B, ...]`, of rows that count `weight` [B]."""
        return {"labels": labels, "weight": weight.copy()}

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """Return what predictions are measured against."""
        return labels

    def token_ids(self) -> np.ndarray:
        """Return all token ids, int32; none where there are no tokens."""
        return np.zeros(0, np.int32)

    def renumbered(self, used: np.ndarray) -> Self:
        """Replace every token id by its place among ascending ids `used`."""
        return self

    def sizes(self) -> Mapping[str, int]:
        """Return sizes by name that are no axis of a batch field, such as kinds of token."""
        return {}

    def counts(self) -> Mapping[str, int]:
        """Return what is worth telling of the examples, such as how many rows were `cut`."""
        return {}

    def processor(self) -> Json | None:
        """Return the `preprocessor_config.json` of what was done to the inputs, if any."""
        return None


@dataclasses.dataclass(frozen=True)
class Arrays(Inputs):
    """Inputs that are arrays with a row for each example, batched as they are.

    Attributes:
      arrays: array [N, ...] of each batch field, by name.
    """

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, rows: np.ndarray) -> Self:
        return dataclasses.replace(self, arrays={name: a[rows] for name, a in self.arrays.items()})

    def batch(self, index: np.ndarray, length: int) -> Batch:
        return {name: array[index] for name, array in self.arrays.items()}

    def example_bytes(self) -> Iterator[bytes]:
        for row in zip(*self.arrays.values(), strict=True):
            yield b"".join(np.asarray(part).tobytes() for part in row)

    def hashed(self, *, subset: bool) -> tuple[np.ndarray, ...]:
        return tuple(self.arrays.values())

    def row_shape(self, length: int) -> tuple[int, ...]:
        return next(iter(self.arrays.values())).shape[1:]
