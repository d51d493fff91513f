"""Data that are at hand without a download."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.folders import Found
from jaxdistill.data.reading.sources import read_found
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

# What teaches no one to write: tests, and what others installed.
_NO_CORPUS = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})


def digits() -> dict[str, dict[str, np.ndarray]]:
    """1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images / 16.0).astype(np.float32)
    return {"train": {"image": images, "label": found.target.astype(np.int64)}}


def standard_library() -> dict[str, Table]:
    """The Python standard library's own source files, without its tests."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(folder.rglob("*.py"))
        if not _NO_CORPUS & set(path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"data.source: {folder} holds no source files; use data.source=files")
    found = Found("text", tuple(files), str(folder))
    return {"train": read_found(found, DataConfig(source="stdlib"), "train")}
