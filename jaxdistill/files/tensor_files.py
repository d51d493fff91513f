"""Files of a cache: safetensors written whole or not at all, hashed on the way, and mapped back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdistill.errors import CacheError
from jaxdistill.files import hashing
from jaxdistill.files.json_files import read_object
from jaxdistill.files.safetensors_stream import DTYPES, write_file
from jaxdistill.types import Json


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Write a safetensors file whole or not at all, the tensors by name, wider types first.

    Returns:
      its SHA-256 and its size in bytes.
    """
    digest = hashing.start()
    size = write_file(path, dict(sorted(arrays.items())), digest=digest)
    return digest.hexdigest(), size


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, mapped: bytes are read when they are looked at.

    Raises:
      CacheError: it is missing, or its header cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 2 <= length <= size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else None
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            if end - start != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"tensor {name} of {end - start} bytes for shape {shape}")
            piece = np.empty(0, np.uint8) if data is None or start == end else data[start:end]
            tensors[name] = piece.view(dtype).reshape(shape)
    except FileNotFoundError as error:
        raise CacheError(f"{path}: the file is missing; {_REPAIR}") from error
    except (ValueError, KeyError, TypeError, OSError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CacheError(f"{path}: its header cannot be read ({reason}); {_REPAIR}") from error
    return tensors


def check_file(path: Path, size: int, sha256: str | None = None) -> None:
    """Check a file's size and, where a hash is given, every byte of it.

    Raises:
      CacheError: it is missing, truncated or altered.
    """
    if not path.is_file():
        raise CacheError(f"{path}: the file is missing; {_REPAIR}")
    got = path.stat().st_size
    if got != size:
        how = "truncated" if got < size else "longer than it was"
        raise CacheError(f"{path}: got {got} bytes, expected {size}: it is {how}; {_REPAIR}")
    if sha256 is not None and (found := hashing.hash_file(path)) != sha256:
        raise CacheError(
            f"{path}: got SHA-256 {found[:16]}, expected {sha256[:16]}: "
            f"its bytes have changed since it was written; {_REPAIR}"
        )


_REPAIR = "write the cache again with the same command: it keeps what is whole and adds the rest"


def read_json(path: Path, *needs: str) -> Json:
    """Return the object in a JSON file of a cache, which has the keys that are needed.

    Raises:
      CacheError: it is missing or damaged.
    """
    fix = "delete the cache and write it again"
    return read_object(path, *needs, fix=fix, error=CacheError)
