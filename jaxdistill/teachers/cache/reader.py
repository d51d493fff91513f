"""Reads a cache from its path alone: what it holds, and the stored fields of any tokens."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxdistill.errors import CacheError, ConfigError, DataError
from jaxdistill.files.tensor_files import check_file, map_tensors
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache import codecs, manifest
from jaxdistill.teachers.cache.quality import MEANING
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class Cache:
    """An open cache; `open_cache` makes it.

    Attributes:
      path: folder of the cache.
      manifest: manifest of the cache, as plain values.
      codec: how it is stored.
      width: number of classes V (for `hidden`: D).
      examples: int64 `[E]`, the numbers of the examples it holds, rising.
      lengths: int64 `[E]`, tokens of each.
    """

    path: Path
    manifest: Json
    codec: codecs.Codec
    width: int
    examples: np.ndarray
    lengths: np.ndarray
    _shard: np.ndarray  # [E] which shard an example is in
    _start: np.ndarray  # [E] its first row there
    _open: dict[int, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def read(self, examples: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the stored fields `[N, ...]` of some examples, one after the other.

        Args:
          examples: integers `[B]`.

        Returns:
          the fields, and int64 `[B]`: the tokens of each example.

        Raises:
          DataError: an example is not in the cache.
          CacheError: a shard is damaged; it is named.
        """
        wanted = np.asarray(examples)
        lengths = self.lengths[self._find(wanted)]
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.tokens(np.repeat(wanted, lengths), position), lengths

    def rows(self, examples: ArrayLike, columns: int) -> dict[str, np.ndarray]:
        """Return the stored fields `[B, columns, ...]` of examples, one row for each.

        Positions after an example's last token are blank (no loss comes of them); tokens after
        `columns` are left out.
        """
        wanted = np.asarray(examples)
        lengths = self.lengths[self._find(wanted)]
        position = np.broadcast_to(np.arange(columns), (wanted.size, columns))
        owner = np.where(position < lengths[:, None], wanted[:, None], -1)
        return self.tokens(owner, position)

    def tokens(self, examples: ArrayLike, positions: ArrayLike) -> dict[str, np.ndarray]:
        """Return the stored fields of single tokens, in any arrangement, such as packed rows.

        Args:
          examples: integers `[...]`: which example each token is of; -1 gives a blank.
          positions: integers `[...]`: its place in that example.

        Returns:
          the fields `[..., ...]`, ready for `codecs.decode`.

        Raises:
          DataError: an example is not in the cache, or is shorter than the position.
          CacheError: a shard is damaged; it is named.
        """
        owners, places = np.asarray(examples), np.asarray(positions)
        shape, owners, places = owners.shape, owners.ravel(), places.ravel()
        fill = codecs.blank(self.codec)
        fields = {
            name: np.full((owners.size, *inner), fill.get(name, 0), dtype)
            for name, (dtype, inner) in codecs.layout(self.codec, self.width).items()
        }
        real = np.flatnonzero(owners >= 0)
        if real.size:
            distinct, inverse = np.unique(owners[real], return_inverse=True)
            index = self._find(distinct)[inverse]
            beyond = (places[real] < 0) | (places[real] >= self.lengths[index])
            if beyond.any():
                first = real[np.argmax(beyond)]
                length = self.lengths[index[np.argmax(beyond)]]
                raise DataError(
                    f"{self.path}: example {owners[first]}: got position {places[first]}, expected "
                    f"0 to {length - 1}: the cache was made from other tokens; write it again"
                )
            row = self._start[index] + places[real]
            for shard in np.unique(self._shard[index]):
                here = self._shard[index] == shard
                stored = self._tensors(int(shard))
                for name, array in fields.items():
                    array[real[here]] = stored[name][row[here]]
        return {name: array.reshape(*shape, *array.shape[1:]) for name, array in fields.items()}

    def decode(self, fields: Mapping[str, np.ndarray | jax.Array]) -> Any:
        """Return what the losses take of stored fields: see `codecs.decode`; pure, may be jitted.

        For the codec `full` these are logits, of `hidden` hidden states, float32.
        """
        return codecs.decode(self.codec, fields)

    def head(self) -> Head:
        """Return the teacher's last projection, which the codec `hidden` comes with.

        Raises:
          CacheError: the cache has none, or its file is damaged.
        """
        described = self.manifest["head"]
        if described is None:
            raise CacheError(
                f"{self.path}: got the codec {self.codec.name}, expected hidden: "
                "only that one stores the teacher's head"
            )
        path = self.path / manifest.HEAD
        arrays = {name: np.asarray(array) for name, array in map_tensors(path).items()}
        if (found := manifest.hash_tree(arrays)) != described["sha256"]:
            raise CacheError(
                f"{path}: got SHA-256 {found[:16]}, expected {described['sha256'][:16]}: it is "
                "damaged; write the cache again with the same command"
            )
        weights, bias = jnp.asarray(arrays["weights"]), arrays.get("bias")
        return Head(
            weights,
            None if bias is None else jnp.asarray(bias),
            described["softcap"],
            described["scale"],
        )

    def verify(self) -> None:
        """Check every byte of every shard.

        Raises:
          CacheError: names each damaged one.
        """
        faults = []
        for number in range(len(self.manifest["shards"])):
            try:
                self._tensors(number)
            except CacheError as error:
                faults.append(str(error))
        if faults:
            raise CacheError("; ".join(faults))

    def _find(self, examples: np.ndarray) -> np.ndarray:
        place = np.minimum(np.searchsorted(self.examples, examples), max(self.examples.size - 1, 0))
        missing = (
            examples[self.examples[place] != examples] if self.examples.size else examples.ravel()
        )
        if missing.size:
            raise DataError(
                f"{self.path}: example {missing[0]} is not in the cache (and {missing.size - 1} "
                f"others of {examples.size}); it holds {self.examples.size} examples: "
                "write it over the data that is trained on"
            )
        return place

    def _tensors(self, shard: int) -> dict[str, np.ndarray]:
        with self._lock:
            if shard not in self._open:
                record = self.manifest["shards"][shard]
                path = self.path / record["file"]
                check_file(path, record["bytes"], record["sha256"])
                self._open[shard] = map_tensors(path)
            return self._open[shard]


def open_cache(
    path: str | os.PathLike[str],
    expect: Mapping[str, object] | None = None,
    *,
    verify: bool = False,
) -> Cache:
    """Open a cache; nothing but its path is needed to read it.

    Sizes and indexes of all shards are checked now, every byte of a shard when it is first read.

    Args:
      path: folder of the cache.
      expect: what it must be of: identity fields by name (`teacher`, `tokenizer`, `data`), and
        `codec` (a name or its parameters) and `width`.
      verify: check every byte of all shards now.

    Raises:
      CacheError: there is no complete cache, a shard is missing or damaged, or fields differ
        from `expect`: all of them are listed.
    """
    folder = Path(path)
    content = manifest.read_manifest(folder)
    if expect:
        manifest.check_expected(folder, content, expect)
    try:
        codec = codecs.make_codec(**content["codec"])
    except (TypeError, ConfigError) as error:
        raise CacheError(
            f"{folder / manifest.MANIFEST}: its codec is damaged ({error}); delete the cache and "
            "write it again"
        ) from None
    examples, lengths, shards, starts = [], [], [], []
    for number, record in enumerate(content["shards"]):
        file = folder / record["file"]
        check_file(file, record["bytes"])
        tensors = map_tensors(file)
        index = {name: np.asarray(tensors.get(name, ())) for name in ("examples", "lengths")}
        if manifest.hash_tree(index) != record["index_sha256"]:
            check_file(file, record["bytes"], record["sha256"])
            raise CacheError(f"{file}: its index is not the manifest's; write the cache again")
        counts = index["lengths"].astype(np.int64)
        examples.append(index["examples"])
        lengths.append(counts)
        starts.append(np.cumsum(counts) - counts)
        shards.append(np.full(counts.size, number))
    none = [np.zeros(0, np.int64)]
    found, sizes, where, start = (
        np.concatenate(part or none) for part in (examples, lengths, shards, starts)
    )
    order = np.argsort(found, kind="stable")
    found = found[order]
    twice = np.flatnonzero(found[1:] == found[:-1])
    if twice.size:
        both = [content["shards"][where[order[twice[0] + i]]]["file"] for i in (0, 1)]
        raise CacheError(
            f"{folder}: example {found[twice[0]]} is in {both[0]} and in {both[1]}: every process "
            "must write different examples; delete the cache and write it again"
        )
    cache = Cache(
        folder, content, codec, content["width"], found, sizes[order], where[order], start[order]
    )
    if verify:
        cache.verify()
    return cache


def inspect(path: str | os.PathLike[str]) -> Json:
    """Return what a cache holds and what it costs, as plain values.

    `bytes_per_token` counts whole shard files. `reconstruction_kl` (nats) was measured against the
    live teacher while it was written, on `tokens_compared` tokens; None where only encoded fields
    came.
    """
    content = manifest.read_manifest(Path(path))
    tokens, measured = content["tokens"], content["measured"]
    codec = codecs.make_codec(**content["codec"])
    rate = {
        f"tokens_per_second{suffix}": tokens / measured[key] if measured[key] else None
        for suffix, key in (("", "seconds"), ("_writing", "seconds_writing"))
    }
    width = content["width"]
    return {
        "codec": content["codec"],
        "identity": content["identity"],
        "width": width,
        "examples": content["examples"],
        "tokens": tokens,
        "shards": len(content["shards"]),
        "writers": content["writers"],
        "bytes": content["bytes"],
        "bytes_per_token": content["bytes"] / tokens if tokens else None,
        "field_bytes_per_token": None if width is None else codecs.bytes_per_token(codec, width),
        "reconstruction_kl": measured["reconstruction_kl"],
        "reconstruction_kl_meaning": MEANING[codec.name],
        "tokens_compared": measured["tokens_compared"],
        **rate,
    }
