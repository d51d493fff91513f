"""Hashes by which files, data and settings are known again: the same in every process.

numpy is imported on first use, because configs are checked without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

SHORT = 16
"""Hexadecimal digits of a hash that only distinguishes versions of one thing."""
_CHUNK = 1 << 22


class Digest(Protocol):
    """A hash in the making."""

    def update(self, piece: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


def start(pieces: Iterable[bytes | memoryview] = ()) -> Digest:
    """Return a SHA-256 in the making of these pieces, as if they were one."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest


def hash_bytes(*pieces: bytes | memoryview) -> str:
    """Return the SHA-256 of pieces as if they were one, 64 hexadecimal digits."""
    return start(pieces).hexdigest()


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hash_bytes(text.encode())


def hash_json(
    value: object, *, sort_keys: bool = True, default: Callable[[Any], object] | None = None
) -> str:
    """Return the SHA-256 of a value as Python's `json.dumps` writes it."""
    return hash_text(json.dumps(value, sort_keys=sort_keys, default=default))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = start()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def hash_each(pieces: Iterable[bytes]) -> np.ndarray:
    """Return a number of 64 bits for each piece, uint64 `[N]`: its BLAKE2b of 8 bytes."""
    digests = b"".join(hashlib.blake2b(piece, digest_size=8).digest() for piece in pieces)
    import numpy as np

    return np.frombuffer(digests, "<u8")


def byte_view(array: np.ndarray) -> memoryview:
    """Return the bytes of an array, without a copy where it is contiguous."""
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
