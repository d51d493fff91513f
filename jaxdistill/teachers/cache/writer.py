"""Writes a cache of a teacher's outputs, whatever the teacher is; a killed writer goes on later."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxdistill.errors import CacheError, ConfigError, DataError
from jaxdistill.files.tensor_files import map_tensors, write_tensors
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache import codecs, manifest
from jaxdistill.teachers.cache.encode_rows import Encoder, flatten_rows
from jaxdistill.teachers.cache.writer_part import Part
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


class CacheWriter:
    """Writes one process's shards of a cache: `with CacheWriter(...) as writer: writer.write(...)`.

    Every shard is complete on disk before it is noted, so a process that is killed loses only what
    was not yet in a shard. Opening the same cache again goes on: whole shards are kept, torn ones
    swept, and `write` passes over examples that are stored. Leaving the `with` block without an
    exception completes the cache (with several processes: when the last one leaves).

    Args:
      path: folder of the cache.
      codec: a name, or a codec of `jaxdistill.teachers.cache.codecs` with its parameters.
      identity: what the cache is made from, plain values by name: hashes of `teacher`, `tokenizer`
        and `data`, and whatever else a reader should be able to insist on.
      width: number of classes V (for `hidden`: D). Needed before the first `write` only by
        `write_encoded`.
      head: the teacher's last projection. With one, `write` takes hidden states: the codec `hidden`
        stores them and the head, others what the head makes of them, a few tokens at a time.
      process_index, process_count: place and number of writers; by default those of
        `jax.distributed`.
      shard_bytes: a shard is written when it has this many.

    Raises:
      CacheError: the folder holds another cache, or another process writes this part.
      ConfigError: a codec's parameter is out of range, a head is missing, the identity is no plain
        values, or the folder holds files that are no cache's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        codec: str | codecs.Codec = "topk",
        identity: Mapping[str, object] | None = None,
        *,
        width: int | None = None,
        head: Head | None = None,
        process_index: int | None = None,
        process_count: int | None = None,
        shard_bytes: int = 64 << 20,
    ) -> None:
        codec = codecs.make_codec(codec) if isinstance(codec, str) else codecs.check_codec(codec)
        index = jax.process_index() if process_index is None else process_index
        count = jax.process_count() if process_count is None else process_count
        if not 0 <= index < count:
            raise ConfigError(f"process_index: got {index}, expected 0 to {count - 1} of {count}")
        is_hidden = isinstance(codec, codecs.Hidden)
        if head is None and is_hidden:
            raise ConfigError(
                "head: got none with the codec hidden, expected the teacher's last projection"
            )
        self.codec = codec
        self._folder, self._count, self._shard_bytes = Path(path), count, shard_bytes
        self._encoder = Encoder(codec, head)
        arrays: dict[str, np.ndarray] = {}
        described = None
        if head is not None and is_hidden:
            arrays = _head_arrays(head)
            constants = {"softcap": head.softcap, "scale": head.scale}
            described = {"sha256": manifest.hash_tree(arrays), **constants}
        self._header = manifest.header(codec, width, _plain(identity or {}), described, count)
        self._pending: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
        self._part = Part(self._folder, index)
        try:
            there = self._part.resume(self._header)
            if there is not None:
                self._set_width(there)
            if described is not None and index == 0:
                _store_head(self._folder / manifest.HEAD, arrays, described["sha256"])
        except BaseException:
            self._part.close()
            raise
        self._resumed = frozenset(self._part.examples)
        self._stored = set(self._resumed)
        self._changed = self._part.lost
        self._measured = dict(self._part.measured)
        self._shards_compared = 0
        self._start = time.perf_counter() - self._measured["seconds"]

    def has(self, examples: ArrayLike) -> np.ndarray:
        """Return for each example, bool `[B]`, whether it is stored: a teacher may leave it out."""
        return np.array([int(example) in self._stored for example in np.asarray(examples)], bool)

    def write(
        self,
        examples: ArrayLike,
        values: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> None:
        """Encode and store the teacher's outputs for some examples.

        Args:
          examples: integers `[B]`, at least 0: the examples' numbers in their data.
          values: logits or log-probabilities (with a head: hidden states) as
            `[B, V]`, one row per example; `[B, T, V]`, a row per token; or `[N, V]` with
            `lengths`, the tokens of all examples in a row.
          lengths: integers `[B]`: how many tokens each example has.
          where: bool `[B, T]`: which tokens are real, for `[B, T, V]`. A real token's position is
            counted among the real ones of its row.

        Raises:
          DataError: an example was written before by this writer, a value is not finite, or shapes
            do not fit.
        """
        begun = time.perf_counter()
        numbers = _numbers(examples)
        rows = flatten_rows(values, numbers, lengths, where)
        self._set_width(self._encoder.width(rows.values.shape[-1]))
        fields = self._encoder.encode(rows, numbers)
        if self._shards_compared <= len(self._part.shards):
            self._shards_compared = len(self._part.shards) + 1
            self._compare(*self._encoder.compare(rows, fields))
        self._add(numbers, rows.lengths, fields)
        self._measured["seconds_writing"] += time.perf_counter() - begun

    def write_encoded(
        self, examples: ArrayLike, fields: Mapping[str, ArrayLike], lengths: ArrayLike
    ) -> None:
        """Store what `codecs.encode` gave for the tokens of some examples, one after the other.

        Args:
          examples: integers `[B]`.
          fields: arrays `[N, ...]` as in `codecs.layout`.
          lengths: integers `[B]` with sum N.

        Raises:
          ConfigError: the writer was not given its `width`.
          DataError: fields, shapes or dtypes are not those of the codec.
        """
        begun = time.perf_counter()
        width = self._header["width"]
        if width is None:
            raise ConfigError(
                "width: got none, expected the number of classes: CacheWriter(width=)"
            )
        numbers, counts = _numbers(examples), np.asarray(lengths, np.int64)
        arrays = {name: np.asarray(array) for name, array in fields.items()}
        total = int(counts.sum())
        wanted = {
            name: (dtype.name, (total, *shape))
            for name, (dtype, shape) in codecs.layout(self.codec, width).items()
        }
        got = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
        if got != wanted or counts.shape != numbers.shape:
            raise DataError(
                f"fields: got {got} for lengths {counts.shape} with sum {total}, expected {wanted} "
                f"for {numbers.size} examples"
            )
        self._add(numbers, counts, arrays)
        self._measured["seconds_writing"] += time.perf_counter() - begun

    def flush(self) -> None:
        """Write what has been gathered as a shard now, full or not: before a process ends early."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        examples, lengths, fields = zip(*pending, strict=True)
        arrays = {name: np.concatenate([part[name] for part in fields]) for name in fields[0]}
        index = {
            "examples": np.concatenate(examples),
            "lengths": np.concatenate(lengths).astype(np.uint32),
        }
        self._part.add(arrays, index)
        self._note(complete=False)

    def close(self, *, complete: bool = True) -> None:
        """Write what is left and, if `complete`, declare this writer's part done."""
        if self._part.closed:
            return
        try:
            self.flush()
            if not complete:
                shards = len(self._part.shards)
                log.info("%s: left incomplete, %d shards are whole", self._folder, shards)
            elif self._changed or not (self._folder / manifest.MANIFEST).is_file():
                self._note(complete=True)
                manifest.merge(self._folder, self._count)
        finally:
            self._part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(complete=kind is None)

    def _add(
        self, examples: np.ndarray, lengths: np.ndarray, fields: dict[str, np.ndarray]
    ) -> None:
        known = self.has(examples)
        again = [e for e in examples[known].tolist() if e not in self._resumed]
        if again or len(set(examples.tolist())) < examples.size:
            which = f"example {again[0]}" if again else "an example of this batch"
            raise DataError(f"{which}: written twice; every example needs another number")
        if known.any():
            tokens = np.repeat(~known, lengths)
            examples, lengths = examples[~known], lengths[~known]
            fields = {name: array[tokens] for name, array in fields.items()}
        if not examples.size:
            return
        self._changed = True
        self._stored.update(examples.tolist())
        self._pending.append((examples, lengths, fields))
        waiting = sum(array.nbytes for _, _, part in self._pending for array in part.values())
        if waiting >= self._shard_bytes:
            self.flush()

    def _compare(self, count: int, kl: float) -> None:
        measured, before = self._measured, self._measured["tokens_compared"]
        measured["tokens_compared"] += count
        total = measured["reconstruction_kl"] * before + kl
        measured["reconstruction_kl"] = total / max(before + count, 1)

    def _set_width(self, width: int) -> None:
        known = self._header["width"]
        if known is None:
            self._header["width"] = width
            self._header["fields"] = manifest.stored_fields(self.codec, width)
        elif known != width:
            raise DataError(f"values: got width {width}, expected {known} as in the whole cache")

    def _note(self, *, complete: bool) -> None:
        self._measured["seconds"] = time.perf_counter() - self._start
        self._part.note(self._header, self._measured, complete=complete)


def _numbers(examples: ArrayLike) -> np.ndarray:
    array = np.asarray(examples)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise DataError(
            f"examples: got {array.dtype} of shape {array.shape}, expected whole numbers [B] of at "
            "least 0, one per example"
        )
    return array.astype(np.int64)


def _plain(identity: Mapping[str, object]) -> Json:
    reserved = {"codec", "width"} & identity.keys()
    try:
        if not reserved:
            return json.loads(json.dumps(dict(identity)))
        why = f"the names {', '.join(sorted(reserved))}, which the cache has for itself"
    except TypeError as error:
        why = str(error)
    raise ConfigError(
        f"identity: got {why}, expected plain values under names other than codec and width"
    )


def _head_arrays(head: Head) -> dict[str, np.ndarray]:
    bias = {} if head.bias is None else {"bias": np.asarray(head.bias)}
    return {"weights": np.asarray(head.weights), **bias}


def _store_head(path: Path, arrays: Mapping[str, np.ndarray], digest: str) -> None:
    if path.is_file():
        try:
            if manifest.hash_tree(map_tensors(path)) == digest:
                return
        except CacheError:
            log.warning("%s: damaged, it is written anew", path)
    write_tensors(path, arrays)
