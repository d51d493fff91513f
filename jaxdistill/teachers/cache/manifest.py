"""The manifest of a cache: what it was made from, how it is stored, and its files.

```
cache/
  manifest.json            everything below, written last: without it the cache is not complete
  writers/00000.json       what one writing process has finished so far
  shards/00000-000000.safetensors
  head.safetensors         the teacher's last projection, for the codec `hidden`
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxdistill.errors import CacheError
from jaxdistill.files import hashing
from jaxdistill.files.hashing import byte_view
from jaxdistill.files.json_files import write_json
from jaxdistill.files.tensor_files import read_json
from jaxdistill.teachers.cache import codecs
from jaxdistill.types import Json, Tree

FORMAT = "jaxdistill teacher cache"
VERSION = 1
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
_COMMON = ("format", "version", "identity", "codec", "width", "fields", "head", "writers")
MEASURES = ("seconds", "seconds_writing", "reconstruction_kl", "tokens_compared")
_NOTED = (*_COMMON, *MEASURES, "shards", "complete")
_TOTALS = (*_COMMON, "shards", "examples", "tokens", "bytes", "measured")
_RECORD = ("file", "bytes", "sha256", "index_sha256", "examples", "tokens")


def header(
    codec: codecs.Codec,
    width: int | None,
    identity: Mapping[str, object],
    head: Mapping[str, object] | None,
    writers: int,
) -> Json:
    """Return what all writers of one cache have in common, as plain values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "identity": dict(identity),
        "codec": codecs.describe(codec),
        "width": width,
        "fields": None if width is None else stored_fields(codec, width),
        "head": None if head is None else dict(head),
        "writers": writers,
    }


def stored_fields(codec: codecs.Codec, width: int) -> Json:
    """Return `{field: {"dtype", "shape"}}` per token."""
    return {
        name: {"dtype": dtype.name, "shape": list(shape)}
        for name, (dtype, shape) in codecs.layout(codec, width).items()
    }


def part_path(folder: Path, writer: int) -> Path:
    """Return where a writer notes what it has finished."""
    return folder / "writers" / f"{writer:05d}.json"


def merge(folder: Path, writers: int) -> Json | None:
    """Write the manifest if every writer is done; return it, or None while one is missing.

    Whichever process comes last finds all parts complete; should two, they write the same bytes.

    Raises:
      CacheError: the parts do not belong to one cache.
    """
    parts = []
    for writer in range(writers):
        path = part_path(folder, writer)
        part = read_note(path) if path.is_file() else {}
        if not part.get("complete"):
            return None
        parts.append(part)
    # A process that got no examples does not know the width.
    first = next((part for part in parts if part["width"] is not None), parts[0])
    for writer, part in enumerate(parts):
        known = {name: part[name] for name in _COMMON if part[name] is not None}
        if found := differences(first, known):
            raise CacheError(
                f"{folder}: the writers made different caches: writer {writer}: "
                f"{'; '.join(found)}; run every process with the same configuration"
            )
    shards = [shard for part in parts for shard in part["shards"]]
    tokens = sum(part["tokens_compared"] for part in parts)
    kl = sum(part["reconstruction_kl"] * part["tokens_compared"] for part in parts)
    manifest = {
        **{name: first[name] for name in _COMMON},
        "shards": shards,
        "examples": sum(shard["examples"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "measured": {
            "seconds": max(part["seconds"] for part in parts),
            "seconds_writing": max(part["seconds_writing"] for part in parts),
            "reconstruction_kl": kl / tokens if tokens else None,
            "tokens_compared": tokens,
        },
    }
    write_json(folder / MANIFEST, manifest, indent=1, sort_keys=True)
    return manifest


def read_manifest(folder: Path) -> Json:
    """Return a complete cache's manifest.

    Raises:
      CacheError: there is no cache, it is not complete, or another version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CacheError(_incomplete(folder))
    manifest = read_json(path)
    got = (manifest.get("format"), manifest.get("version"))
    if got != (FORMAT, VERSION):
        raise CacheError(
            f"{path}: got format {got[0]!r} version {got[1]!r}, expected {FORMAT!r} version "
            f"{VERSION}; write the cache again"
        )
    _check_records(path, read_json(path, *_TOTALS))
    return manifest


def read_note(path: Path) -> Json:
    """Return what a writer has noted.

    Raises:
      CacheError: it is damaged.
    """
    note = read_json(path, *_NOTED)
    _check_records(path, note)
    return note


def _check_records(path: Path, content: Json) -> None:
    """Refuse a list of shards that lacks what is told of each."""
    shards = content["shards"]
    if not isinstance(shards, list) or not all(
        isinstance(shard, dict) and all(name in shard for name in _RECORD) for shard in shards
    ):
        raise CacheError(
            f"{path}: its list of shards is damaged, expected {list(_RECORD)} of each; delete the "
            "cache and write it again"
        )


def _incomplete(folder: Path) -> str:
    parts = [read_note(path) for path in sorted((folder / "writers").glob("*.json"))]
    if not parts:
        return (
            f"{folder}: got no {MANIFEST}, expected the folder of a teacher cache; "
            "write one with `jaxdistill cache CONFIG`"
        )
    done = sum(bool(part.get("complete")) for part in parts)
    shards = sum(len(part.get("shards", ())) for part in parts)
    return (
        f"{folder}: the cache is not complete: {done} of {parts[0].get('writers')} writers have "
        f"finished, {shards} shards are whole; run the command that writes it again, it goes on "
        "from there"
    )


def differences(got: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """List every field of `expected`, nested ones by dotted name, that `got` has otherwise."""
    found = []
    flat = dict(_flat(got))
    for name, value in _flat(expected):
        if name not in flat:
            found.append(f"{name}: got nothing, expected {_short(value)}")
        elif flat[name] != value:
            found.append(f"{name}: got {_short(flat[name])}, expected {_short(value)}")
    return found


def check_expected(folder: Path, manifest: Json, expect: Mapping[str, object]) -> None:
    """Check a cache against what its user has.

    Args:
      folder: for the message.
      manifest: manifest of the cache.
      expect: identity fields by name (`teacher`, `tokenizer`, `data`, …), and `codec` (a name or a
        mapping of its parameters) and `width`.

    Raises:
      CacheError: lists every field that does not match.
    """
    expect = dict(expect)
    if isinstance(expect.get("codec"), str):
        expect["codec"] = {"name": expect["codec"]}
    described = {**manifest["identity"], "codec": manifest["codec"], "width": manifest["width"]}
    found = differences(described, expect)
    if found:
        raise CacheError(
            f"{folder}: this cache is of something else, {len(found)} "
            f"field{'s do' if len(found) > 1 else ' does'} not match: {'; '.join(found)}; "
            "write it again, or name the cache that belongs to this run"
        )


def hash_tree(tree: Tree) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes of a tree of arrays.

    It identifies a teacher by its parameters, whatever file they came from.
    """
    digest = hashing.start()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape}\n".encode())
        digest.update(byte_view(array))
    return digest.hexdigest()


def _flat(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:17]}…{text[-1]}"
