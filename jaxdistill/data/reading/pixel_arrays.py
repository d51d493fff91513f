"""Arrays of pixels as files hold them: which number is white, and which axis the channels are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxdistill.data.reading.pictures import fitted
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Cells, Remark, Table
from jaxdistill.errors import DataError

_CHANNELS = (1, 3, 4)
_TOLERANCE = 1e-3
_EIGHT_BITS_FROM = 128  # fractions beyond it are pixels of 0 to 255; below it they may be anything


def as_array(values: Cells, table: Table) -> np.ndarray | None:
    """Return a column of pixels as `[N, H, W, C]`, or None where it holds files or pictures.

    Channels first (`[N, C, H, W]`, as torch has them) become channels last.

    Raises:
      DataError: rows of different shapes, or an array that is no images.
    """
    if not isinstance(values, np.ndarray) or values.dtype == object:
        if not len(values) or not isinstance(values[0], list | tuple | np.ndarray):
            return None
        try:
            values = np.stack([np.asarray(value) for value in values])
        except ValueError:
            raise DataError(
                f"{table.source}: got images as lists of different shapes, expected [H, W] or "
                "[H, W, C], the same for every row"
            ) from None
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or values.dtype.kind not in "buif":
        raise DataError(
            f"{table.source}: got images of shape {values.shape} and type {values.dtype}, expected "
            "[N, H, W] or [N, H, W, C] of numbers"
        )
    if values.shape[3] not in _CHANNELS and values.shape[1] in _CHANNELS:
        values = values.transpose(0, 2, 3, 1)
    return values


def white_of(
    arrays: Mapping[str, np.ndarray], given: float | None, source: str
) -> tuple[float, tuple[Remark, ...]]:
    """Return the value of a white pixel in all splits of a data set, and what to tell of it.

    Booleans and fractions up to 1 have 1; whole numbers up to 255, and fractions from 0 to at least
    128 and at most 255, have 255; unsigned whole numbers of 16 bits have 65535.

    Args:
      arrays: split -> its pixels.
      given: `data.image_max`, which goes before all of this.

    Raises:
      DataError: nothing says it, or pixels are not finite.
    """
    if any(not np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{source}: got images with NaN or infinite pixels, expected numbers")
    low = min(float(array.min()) for array in arrays.values())
    high = max(float(array.max()) for array in arrays.values())
    if max(-low, high) > float(np.finfo(np.float32).max):
        raise DataError(
            f"{source}: got pixels from {low:g} to {high:g}, expected at most "
            f"{np.finfo(np.float32).max:.3g}, since they are held as float32; scale them"
        )
    types = {array.dtype for array in arrays.values()}
    if given is not None:
        return given, ()
    if all(kind.kind == "b" for kind in types):
        return 1.0, ()
    if all(kind.kind == "f" for kind in types):
        if low < -_TOLERANCE:
            message = (
                f"pixels of {source} lie between {low:g} and {high:g}: they are taken as "
                "normalized already, which an exported image processor cannot say; keep pixels of "
                "0 to 1 and set data.image_mean and data.image_std for that"
            )
            return 1.0, (Remark("images", message),)
        if high <= 1 + _TOLERANCE:
            return 1.0, ()
        if _EIGHT_BITS_FROM <= high <= 255:
            return 255.0, ()
    elif all(kind.kind in "ui" for kind in types) and low >= 0:
        if high <= 255:
            return 255.0, ()
        if types == {np.dtype(np.uint16)}:
            return 65535.0, ()
    names = ", ".join(sorted(str(kind) for kind in types))
    raise DataError(
        f"{source}: got {names} pixels from {low:g} to {high:g}, expected fractions of 0 to 1, or "
        "whole numbers of 0 to 255; say which number is white as data.image_max"
    )


def fit_arrays(pixels: np.ndarray, white: float, preprocessing: Preprocessing) -> np.ndarray:
    """Return pixels resized and cropped, uint8 of 0 to 255 or float32 whose white is 1.

    Args:
      pixels: [N, H, W, C], any numbers.
    """
    from PIL import Image

    if white == 255 and pixels.dtype.kind in "ui":
        pixels = pixels.astype(np.uint8)
    else:
        pixels = pixels.astype(np.float32)
        pixels /= np.float32(white)
    if preprocessing.crop is None and preprocessing.size in (None, pixels.shape[1:3]):
        return pixels
    # Plane by plane, since Pillow has no fractions in colour; it works on each alone anyway.
    fit = [
        [
            np.asarray(fitted(Image.fromarray(np.ascontiguousarray(plane)), preprocessing))
            for plane in np.moveaxis(image, -1, 0)
        ]
        for image in pixels
    ]
    return np.moveaxis(np.array(fit), 1, -1)
