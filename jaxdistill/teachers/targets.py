"""Stored outputs of a frozen teacher for the training examples, added to every batch.

They are the same for an example in every epoch and for every seed. Where the objective reads
last outputs only, and examples are not altered on the way, one pass replaces all others; what it
gave is kept in memory, or in a cache on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxdistill.config.data import altering
from jaxdistill.config.schema import Config
from jaxdistill.data.batching.batch_source import Batch, BatchSource
from jaxdistill.data.batching.draws import Draw, Part
from jaxdistill.data.split import Split
from jaxdistill.errors import CacheError
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.cache.reader import Cache
from jaxdistill.teachers.identity import example_keys
from jaxdistill.teachers.teacher import Teacher
from jaxdistill.types import Tree

PREFIX = "teacher_"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is known of stored outputs without reading any.

    Attributes:
      codec: how they are stored.
      width: number of classes (for the codec `hidden`: D).
      head: the teacher's last projection, for the codec `hidden`.
    """

    codec: codecs.Codec
    width: int
    head: Head | None = None

    @property
    def classes(self) -> int:
        """Number of classes that the teacher distinguishes."""
        return self.width if self.head is None else self.head.weights.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets(Stored):
    """The teacher's outputs by example.

    Attributes:
      read: stored fields `[N, ...]` of examples int64 `[N]`, as the split numbers them; of packed
        rows `[N, T, ...]`.
    """

    read: Callable[[np.ndarray], Mapping[str, np.ndarray]]


def obstacle(config: Config) -> str | None:
    """Return why the teacher has to run live in this configuration, or None."""
    for name, term in config.terms.items():
        if term.method.reads_teacher_inside:
            return f"objective.{name} reads the teacher's layers"
    return next((f"{name} alters the examples" for name in altering(config.data)), None)


def in_memory(logits: np.ndarray) -> Targets:
    """Return targets from logits float32 `[N, C]`, in the order of the split."""
    return Targets(
        codec=codecs.Full(), width=logits.shape[-1], read=lambda index: {"logits": logits[index]}
    )


def from_cache(cache: Cache, split: Split) -> Targets:
    """Return targets that are read from disk as they are needed.

    Raises:
      CacheError: the cache lacks examples of the split.
    """
    keys = example_keys(split)
    missing = int((~np.isin(keys, cache.examples)).sum())
    if missing:
        raise CacheError(
            f"{cache.path}: data: got outputs for {cache.examples.size:,} examples of the data "
            f"{cache.manifest['identity'].get('data')}, expected all of {split.fingerprint}: "
            f"{missing:,} of its {len(split):,} examples are not there; write the cache over the "
            "data that is trained on"
        )

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        fields = cache.rows(keys[index], split.inputs.places)
        if split.inputs.full_rows:
            return fields
        return {name: field[:, 0] for name, field in fields.items()}

    head = cache.head() if isinstance(cache.codec, codecs.Hidden) else None
    return Targets(codec=cache.codec, width=cache.width, head=head, read=read)


def with_targets(source: BatchSource, targets: Targets) -> BatchSource:
    """Add the teacher's outputs to every batch, a row for each label."""

    def assemble(epoch: int, position: int, draw: Draw, part: Part) -> Batch:
        fields = targets.read(part.take(draw.index))
        batch = source.assemble(epoch, position, draw, part)
        return {**batch, **{PREFIX + name: field for name, field in fields.items()}}

    return dataclasses.replace(source, assemble=assemble)


def head_axes(head: Head | None) -> Head | None:
    """Return the logical axes of a head's arrays, in a head's place."""
    if head is None:
        return None
    bias = None if head.bias is None else ("vocab",)
    return dataclasses.replace(head, weights=("embed", "vocab"), bias=bias)


def token_head(head: Head, vocabulary: int | None) -> Head:
    """Return a head of `vocabulary` columns: those that pad it are no tokens, and have no mass."""
    bias = None if head.bias is None else head.bias[:vocabulary]
    return dataclasses.replace(head, weights=head.weights[:, :vocabulary], bias=bias)


def stored(known: Stored) -> Teacher:
    """Let stored outputs teach, kept in memory or in a cache, or what is known of them."""
    return Teacher(
        make_apply(known.codec),
        {} if known.head is None else known.head,
        head_axes(known.head),
        codec=known.codec,
    )


def make_apply(codec: codecs.Codec) -> Callable[..., Outputs]:
    """Return the apply function of a stored teacher: it reads its outputs from the batch.

    Its outputs are logits, hidden states with the head that it is given as parameters, or features
    named as the targets of the codec.
    """

    def apply(params: Tree, batch: Mapping[str, jax.Array], **_: object) -> Outputs:
        stored = {
            name.removeprefix(PREFIX): field
            for name, field in batch.items()
            if name.startswith(PREFIX)
        }
        decoded = codecs.decode(codec, stored)
        if isinstance(codec, codecs.Full):
            return Outputs(logits=decoded)
        if isinstance(codec, codecs.Hidden):
            return Outputs(hidden=decoded, head_parameters=params)
        return Outputs(features=decoded._asdict())

    return apply
