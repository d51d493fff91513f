"""Batches as a pure function of a seed and a step number."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxdistill.config.data import altering
from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.buckets import bucket_of
from jaxdistill.data.batching.draws import WHOLE, Draw, Part, bucket_counts, bucket_draws
from jaxdistill.data.batching.pack_examples import pack_batch, pack_plan
from jaxdistill.data.inputs.inputs import Batch, Chance
from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.data.split import Split
from jaxdistill.errors import ConfigError
from jaxdistill.files.hashing import SHORT, hash_json


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What a batch holds.

    Attributes:
      examples: real examples.
      tokens: real tokens; examples for images.
      slots: tokens the device computes, padding included.
      index: the example of each label, int64 [rows]; -1 where it only fills.
    """

    examples: int
    tokens: int
    slots: int
    index: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Batches by step number, for any step from 0 on; the same step is always the same batch.

    Attributes:
      steps_per_epoch: batches that hold every example once.
      shapes: the distinct shapes of the input, each compiled once.
      identity: what the order depends on: data, seed, batch size, buckets and layout.
      lengths: tokens per example, int64 [N].
      draws: the batches of an epoch.
      assemble: one batch of arrays from its epoch, its position there, its examples and the part
        of its rows that is wanted.
      part: the rows that are made; all by default. What a batch holds as a whole does not change.
    """

    steps_per_epoch: int
    shapes: tuple[tuple[int, ...], ...]
    identity: Mapping[str, object]
    lengths: np.ndarray
    draws: Callable[[int], Sequence[Draw]]
    assemble: Callable[[int, int, Draw, Part], Batch]
    part: Part = WHOLE

    @property
    def fingerprint(self) -> str:
        """Return a hash of `identity`."""
        return hash_json(self.identity)[:SHORT]

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.assemble(epoch, position, self.draws(epoch)[position], self.part)

    def only(self, part: Part) -> BatchSource:
        """Return the same batches, of which only the rows of `part` are read and made."""
        return dataclasses.replace(self, part=part)

    def __iter__(self) -> Iterator[Batch]:
        """Go through the first epoch."""
        return (self[step] for step in range(self.steps_per_epoch))

    def info(self, step: int) -> BatchInfo:
        """Count what the batch of a step holds, without making it."""
        epoch, position = divmod(step, self.steps_per_epoch)
        draw = self.draws(epoch)[position]
        real = draw.weight > 0
        return BatchInfo(
            examples=int(real.sum()),
            tokens=int(self.lengths[draw.index[real]].sum()),
            slots=draw.shape[0] * draw.shape[1],
            index=np.where(real, draw.index, -1),
        )


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    config: DataConfig,
    accumulate: int = 1,
    shards: int = 1,
    multiple: int = 1,
) -> BatchSource:
    """Return shuffled batches for training; every example occurs once per epoch.

    In the bucket layout a batch has one of a few fixed lengths (`data.buckets`) and `batch_size`
    rows, or as many as fit into `data.tokens_per_batch`. In the pack layout `batch_size` examples
    share fewer rows, and all batches have one shape. At most one batch of an epoch is short: rows
    of weight 0 fill it.

    Args:
      split: the examples.
      batch_size: examples per update, over all devices and microbatches.
      seed: with the step, everything the order and the augmentation depend on.
      config: layout, buckets and augmentation.
      accumulate: microbatches per update.
      shards: devices along the batch.
      multiple: number that every length is a multiple of, where devices share a row.

    Raises:
      ConfigError: the rows of a batch cannot be dealt to the microbatches and devices.
    """
    parts = accumulate * shards
    check_parts(batch_size, accumulate, shards)
    if config.layout == "pack" and not split.inputs.full_rows:
        return _packed(split, batch_size, seed, config, accumulate, shards)
    lengths = split.lengths
    buckets = split.inputs.buckets(config.buckets, multiple)
    rows = [_rows(bucket, batch_size, parts, config, split) for bucket in buckets]
    bucket = bucket_of(lengths, buckets)
    counts = bucket_counts(np.bincount(bucket, minlength=len(buckets)).tolist(), rows)

    @functools.lru_cache(maxsize=2)
    def draws(epoch: int) -> Sequence[Draw]:
        order = permutation(stream(seed, epoch, Purpose.ORDER), len(split))
        ascending = bucket_draws(order, bucket, buckets, rows)
        mixed = permutation(stream(seed, epoch, Purpose.BATCHES), len(ascending))
        return [ascending[index] for index in mixed]

    def assemble(epoch: int, position: int, draw: Draw, part: Part) -> Batch:
        batch = make_batch(split, part.draw(draw))
        chance = Chance(seed, epoch, position, len(draw.index), part)
        return split.inputs.augment(batch, config, chance)

    return _source(
        split,
        counts,
        list(zip(rows, buckets, strict=True)),
        {"seed": seed, "batch_size": batch_size, "layout": "bucket", "shift": config.shift}
        | {name: value for name, value in altering(config).items() if name != "data.shift"},
        draws,
        assemble,
    )


def check_parts(batch_size: int, accumulate: int, shards: int) -> None:
    """Check that the rows of a batch can be dealt to microbatches and devices.

    Raises:
      ConfigError: they cannot.
    """
    parts = accumulate * shards
    if batch_size % parts:
        near = max(parts, round(batch_size / parts) * parts)
        raise ConfigError(
            f"train.batch_size: got {batch_size}, expected a multiple of accumulate x devices = "
            f"{accumulate} x {shards}; the nearest is {near}"
        )


def eval_batches(
    split: Split, *, batch_size: int, config: DataConfig, shards: int = 1, multiple: int = 1
) -> BatchSource:
    """Return batches that hold every example once, in the same order in every epoch.

    `BatchInfo.index` says which example each row is. `batch_size` is rounded up to a multiple of
    `shards`; it has no part in the result of an evaluation. Few batches get few lengths, since each
    is compiled.
    """
    rows_per_batch = -(-batch_size // shards) * shards
    few = max(1, min(config.buckets, len(split) // rows_per_batch // 2))
    buckets = split.inputs.buckets(few, multiple)
    rows = [rows_per_batch] * len(buckets)
    bucket = bucket_of(split.lengths, buckets)
    counts = bucket_counts(np.bincount(bucket, minlength=len(buckets)).tolist(), rows)
    draws = bucket_draws(np.arange(len(split)), bucket, buckets, rows)
    return _source(
        split,
        counts,
        list(zip(rows, buckets, strict=True)),
        {"seed": None, "batch_size": rows_per_batch, "layout": "bucket", "shift": 0},
        lambda epoch: draws,
        lambda epoch, position, draw, part: make_batch(split, part.draw(draw)),
    )


def make_batch(split: Split, draw: Draw) -> Batch:
    """Gather the arrays of a batch with a row for each example, padded to its length."""
    inputs = split.inputs.batch(draw.index, draw.shape[1])
    return {**inputs, **split.inputs.labelled(split.labels[draw.index], draw.weight)}


def _packed(
    split: Split, batch_size: int, seed: int, config: DataConfig, accumulate: int, shards: int
) -> BatchSource:
    arrangement, draws = pack_plan(
        split,
        batch_size=batch_size,
        seed=seed,
        tokens_per_batch=config.tokens_per_batch,
        accumulate=accumulate,
        shards=shards,
    )
    layout = f"packed {accumulate} x {shards}"
    return _source(
        split,
        [arrangement.steps],
        [arrangement.shape],
        {"seed": seed, "batch_size": batch_size, "layout": layout, "shift": 0},
        draws,
        lambda epoch, position, draw, part: pack_batch(split, draw, arrangement, part),
    )


def _rows(length: int, batch_size: int, parts: int, config: DataConfig, split: Split) -> int:
    budget = config.tokens_per_batch
    if budget is None:
        return batch_size
    if not split.inputs.tokenized:
        raise ConfigError(
            f"data.tokens_per_batch: got {budget} for data without tokens; drop it: "
            "train.batch_size says how many examples a batch has"
        )
    rows = budget // length // parts * parts
    if rows < parts:
        raise ConfigError(
            f"data.tokens_per_batch: got {budget}, expected at least {length * parts}: rows of "
            f"{length} tokens for {parts} parts (accumulate x devices)"
        )
    return rows


def _source(
    split: Split,
    counts: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    identity: Mapping[str, object],
    draws: Callable[[int], Sequence[Draw]],
    assemble: Callable[[int, int, Draw, Part], Batch],
) -> BatchSource:
    used = [shape for shape, count in zip(shapes, counts, strict=True) if count]
    buckets = [list(shape) for shape in shapes]
    return BatchSource(
        steps_per_epoch=sum(counts),
        shapes=tuple((rows, *split.inputs.row_shape(length)) for rows, length in used),
        identity={"data": split.fingerprint, **identity, "buckets": buckets},
        lengths=split.lengths,
        draws=draws,
        assemble=assemble,
    )
