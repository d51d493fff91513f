"""One process's part of a cache on disk: its lock, its shards, and the note of what is whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.errors import CacheError, ConfigError
from jaxdistill.files.json_files import write_json
from jaxdistill.files.tensor_files import (
    check_file,
    map_tensors,
    write_tensors,
)
from jaxdistill.teachers.cache import manifest
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

_ENTRIES = {"shards", "writers", manifest.MANIFEST, manifest.HEAD, "settings.json", "result.json"}


class Part:
    """The shards of one writer, each complete on disk before it is noted.

    Attributes:
      examples: numbers of all examples in whole shards.
      shards: the records of whole shards.
      measured: what earlier runs of this writer measured.
      lost: whether a shard that was noted had to be dropped.
    """

    def __init__(self, folder: Path, writer: int) -> None:
        _check_folder(folder)
        for name in ("shards", "writers"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._folder, self._writer = folder, writer
        self._note_path = manifest.part_path(folder, writer)
        self._lock = _lock(self._note_path.with_suffix(".lock"))
        self._number = 0
        self.examples: set[int] = set()
        self.shards: list[Json] = []
        self.measured: dict[str, float] = dict.fromkeys(manifest.MEASURES, 0)
        self.lost = False

    def resume(self, header: Mapping[str, object]) -> int | None:
        """Take over what an earlier run left whole, and sweep the rest.

        Args:
          header: header of this cache; its width may still be unknown.

        Returns:
          the width of what is there, None where nothing is.

        Raises:
          CacheError: the folder holds another cache; every difference is listed.
        """
        note = manifest.read_note(self._note_path) if self._note_path.is_file() else None
        if note is not None:
            known = {name: value for name, value in header.items() if value is not None}
            if found := manifest.differences(note, known):
                raise CacheError(
                    f"{self._folder}: holds another cache: {'; '.join(found)}; "
                    "write to another folder, or delete this one"
                )
            for record in note["shards"]:
                self._keep(record)
            self.measured = {name: note[name] for name in manifest.MEASURES}
            self.lost = len(self.shards) < len(note["shards"])
            if self.lost:
                # Until it is written again, the cache must not pass for complete.
                (self._folder / manifest.MANIFEST).unlink(missing_ok=True)
        self._sweep()
        return None if note is None else note["width"]

    def add(self, arrays: Mapping[str, np.ndarray], index: Mapping[str, np.ndarray]) -> None:
        """Write a shard of fields with its index (`examples` and `lengths`)."""
        file = f"shards/{self._writer:05d}-{self._number:06d}.safetensors"
        self._number += 1
        sha256, size = write_tensors(self._folder / file, {**arrays, **index})
        record = {
            "file": file,
            "bytes": size,
            "sha256": sha256,
            "index_sha256": manifest.hash_tree(index),
            "examples": int(index["examples"].size),
            "tokens": int(index["lengths"].sum(dtype=np.int64)),
        }
        self.shards.append(record)

    def note(
        self, header: Mapping[str, object], measured: Mapping[str, float], *, complete: bool
    ) -> None:
        """Note on disk which shards are whole, and whether there will be more."""
        content = {**header, **measured, "shards": self.shards, "complete": complete}
        write_json(self._note_path, content, indent=1, sort_keys=True)

    def close(self) -> None:
        """Let others write this part."""
        self._lock.close()

    @property
    def closed(self) -> bool:
        return self._lock.closed

    def _keep(self, record: Json) -> None:
        path = self._folder / record["file"]
        try:
            check_file(path, record["bytes"], record["sha256"])
        except CacheError as error:
            log.warning("%s; it is written anew", str(error).split(";")[0])
            return
        self.shards.append(record)
        self.examples.update(map_tensors(path)["examples"].tolist())

    def _sweep(self) -> None:
        kept = {Path(record["file"]).name for record in self.shards}
        files = sorted((self._folder / "shards").glob(f"{self._writer:05d}-*"))
        torn = [file for file in files if file.name not in kept]
        notes = self._note_path.parent.glob(f"{self._note_path.name}.*.tmp")
        for file in (*torn, *notes):
            file.unlink()
        if files:
            log.info(
                "%s: goes on with %d whole shards of %d examples; swept %d torn or unknown files",
                self._folder,
                len(kept),
                len(self.examples),
                len(torn),
            )
        numbers = [int(name.split("-")[1].split(".")[0]) for name in kept]
        self._number = max(numbers, default=-1) + 1


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: got a file, expected a folder for the cache")
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name not in _ENTRIES and not entry.name.endswith(".tmp"):
            raise ConfigError(
                f"{folder}: holds {entry.name}, which is no cache's; expected an empty folder "
                "or a cache to go on with"
            )


def _lock(path: Path) -> Any:
    """Hold a lock that the system frees however the process ends."""
    import fcntl

    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CacheError(
            f"{path.parent.parent}: another process is writing this part of the cache "
            f"({path.name}); wait for it, or give each another process_index"
        ) from error
    return file
