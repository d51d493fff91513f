"""NPZ files that a run keeps, read back with distrust."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxdistill.errors import CheckpointError


def read_arrays(path: Path, *names: str, fix: str) -> dict[str, np.ndarray]:
    """Read arrays by name from an NPZ file; none that would run code is opened.

    Args:
      path: the file.
      names: what it must hold.
      fix: what to do about a damaged one.

    Raises:
      CheckpointError: it is missing or damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("one array without a name")
            missing = [name for name in names if name not in arrays.files]
            if not missing:
                return {name: arrays[name] for name in names}
            got = f"the arrays {arrays.files}, expected {missing[0]!r}, too"
    except FileNotFoundError:
        got = "no file"
    except (
        *(OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error),
        # An archive names how it is packed, and an array how large it is.
        *(RuntimeError, MemoryError, OverflowError),
    ) as error:
        got = f"no readable NPZ file ({' '.join(str(error).split()) or type(error).__name__})"
    raise CheckpointError(f"{path}: got {got}; {fix}")
