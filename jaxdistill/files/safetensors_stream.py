"""Safetensors files read and written one tensor at a time: no more than one is held at once.

The file is never mapped: pages of a mapped file that were read count as memory of the process.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxdistill.errors import ModelError
from jaxdistill.files.atomic import replacing
from jaxdistill.files.hashing import Digest, byte_view

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""What safetensors calls the types of numbers."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Weights of 8 bits mean nothing without their scales, which lie elsewhere in a checkpoint.
_NO_WEIGHTS = ("F8_E4M3", "U16", "U32", "U64")
_DTYPES = {name: dtype for name, dtype in DTYPES.items() if name not in _NO_WEIGHTS}
PIECE = 1 << 24  # bytes compared or checked at once
ALIGNMENT = 64  # of arrays that XLA takes over on CPU without a copy


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file: `count` values from byte `start` on."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Pending:
    """A tensor that is made when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """A safetensors file whose header has been read; its tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.path = path
        self.entries = {
            name: Entry(
                entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }

    def get_tensor(self, name: str) -> np.ndarray:
        """Read a tensor.

        Raises:
          ModelError: a dtype that numpy lacks, or a file that has become shorter.
        """
        entry = self.entries[name]
        return self._read(name, 0, entry.count).reshape(entry.shape)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Read a tensor as flat pieces of at most 16 MiB."""
        entry = self.entries[name]
        step = PIECE // _DTYPES[entry.dtype].itemsize if entry.dtype in _DTYPES else entry.count
        for first in range(0, entry.count, step):
            yield self._read(name, first, min(step, entry.count - first))

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise ModelError(
                f"{self.path}: got {name} of dtype {entry.dtype}, expected one of {list(_DTYPES)}"
            )
        dtype = _DTYPES[entry.dtype]
        size = count * dtype.itemsize
        raw = np.fromfile(self.path, np.uint8, size, offset=entry.start + first * dtype.itemsize)
        if raw.size != size:
            raise ModelError(f"{self.path}: it became shorter while it was read; copy it again")
        return raw.view(dtype)


def write_file(
    path: Path,
    tensors: Mapping[str, Pending | np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    digest: Digest | None = None,
) -> int:
    """Write a safetensors file whole or not at all, making each tensor when its turn comes.

    Args:
      tensors: by name; written in this order, wider types first.
      metadata: texts for its header.
      digest: updated with every byte of the file.

    Returns:
      Its size in bytes.

    Raises:
      OSError: it cannot be written; what was there before is then untouched.
    """
    # Wider types first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name in order:
        tensor = tensors[name]
        ends = [offset, offset + tensor.nbytes]
        kind = _NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in order:
            tensor = tensors[name]
            made = tensor.make() if isinstance(tensor, Pending) else tensor
            array = np.asarray(made, tensor.dtype)
            assert array.shape == tensor.shape, name
            yield byte_view(array)

    with replacing(path) as file:
        for piece in pieces():
            file.write(piece)
            if digest is not None:
                digest.update(piece)
    return 8 + len(text) + offset


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array without values that jax takes over on CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def all_finite(array: np.ndarray) -> bool:
    """Return whether a contiguous array holds neither infinities nor NaN, looked at in pieces."""
    flat = array.reshape(-1)
    step = PIECE // max(array.dtype.itemsize, 1)
    return all(np.isfinite(flat[i : i + step]).all() for i in range(0, flat.size, step))
