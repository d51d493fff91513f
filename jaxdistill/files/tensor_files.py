"""Files of a cache: safetensors written whole or not at all, hashed on the way, and mapped back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdistill.errors import CacheError

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "uint32": "U32",
    "int32": "I32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
}
_DTYPES = {name: jnp.dtype(dtype) for dtype, name in _NAMES.items()}
_CHUNK = 1 << 22


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Write a safetensors file under a temporary name, sync it to disk and give it its name.

    Returns:
      its SHA-256 and its size in bytes.
    """
    # The widest numbers first: then every tensor starts at a multiple of its item size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for _, array in ordered:
            data = byte_view(array)
            file.write(data)
            digest.update(data)
        _sync(file)
    os.replace(temporary, path)
    _sync_folder(path.parent)
    return digest.hexdigest(), 8 + len(text) + end


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
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            if end - start != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"tensor {name} of {end - start} bytes for shape {shape}")
            piece = np.empty(0, np.uint8) if data is None or start == end else data[start:end]
            tensors[name] = piece.view(dtype).reshape(shape)
    except FileNotFoundError as error:
        raise CacheError(f"{path}: the file is missing; {_REPAIR}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
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
    if sha256 is not None and (found := hash_file(path)) != sha256:
        raise CacheError(
            f"{path}: got SHA-256 {found[:16]}, expected {sha256[:16]}: "
            f"its bytes have changed since it was written; {_REPAIR}"
        )


_REPAIR = "write the cache again with the same command: it keeps what is whole and adds the rest"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, sync it to disk and give it its name."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.write("\n")
        _sync(file)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
      CacheError: it cannot be read or is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CacheError(f"{path}: cannot be read: {error}; delete the cache") from error
    if not isinstance(content, dict):
        raise CacheError(f"{path}: got {type(content).__name__}, expected a JSON object")
    return content


def byte_view(array: np.ndarray) -> memoryview:
    """Return the bytes of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # The new name itself is on disk only when the folder is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
