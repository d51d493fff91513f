"""Which rows are held out for validation, and which training rows are used."""

from __future__ import annotations

import numpy as np

from jaxdistill.data.order import Purpose, permutation, stream
from jaxdistill.errors import DataError


def hold_out(
    labels: np.ndarray, fraction: float, *, seed: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stratified split once; it depends on `seed`, `fraction` and the labels only.

    Classes (or combinations of labels) keep their shares to within one row; numbers are stratified
    by tenths of their order.

    Args:
      labels: int32 [N], float32 [N] or float32 [N, C].

    Returns:
      Rows of training and of validation, ascending, int64.

    Raises:
      DataError: a part would be empty.
    """
    count = len(labels)
    wanted = round(fraction * count)
    if not 0 < wanted < count:
        raise DataError(
            f"{source}: got {count} rows, expected enough to hold out "
            f"data.validation_fraction={fraction}; give data.validation"
        )
    strata = _strata(labels)
    shuffled = permutation(stream(seed, 0, Purpose.HOLDOUT), count)
    shuffled = shuffled[np.argsort(strata[shuffled], kind="stable")]  # by stratum, random inside
    sizes = np.bincount(strata)
    shares = sizes * (wanted / count)
    quota = np.floor(shares).astype(np.int64)
    # Largest remainders take what rounding down left over.
    left = wanted - int(quota.sum())
    quota[np.argsort(quota - shares, kind="stable")[:left]] += 1
    rank = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = rank < np.repeat(quota, sizes)
    return np.sort(shuffled[~held]), np.sort(shuffled[held])


def subset(count: int, wanted: int, *, seed: int) -> np.ndarray:
    """Draw `wanted` of `count` rows once, ascending; fewer wanted are a part of more wanted."""
    return np.sort(permutation(stream(seed, 0, Purpose.SUBSET), count)[:wanted])


def _strata(labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 1 and labels.dtype.kind == "f":
        rank = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return rank * min(10, len(labels)) // len(labels)
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
