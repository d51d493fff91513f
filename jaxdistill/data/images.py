"""Pictures to float32 arrays, and the random shift of a batch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config import DataConfig
from jaxdistill.data.table import Table
from jaxdistill.errors import DataError


def to_images(table: Table, column: str, config: DataConfig) -> np.ndarray:
    """Return a column as float32 `[N, H, W, C]`, scaled to [0, 1] and then normalized.

    Whole-number pixels are divided by 255; `data.image_mean` and `data.image_std` (one number, or
    one per channel) are applied last: `(x - mean) / std`.

    Raises:
      DataError: an image is damaged, sizes differ and `data.image_size` is not given, or the
        normalization does not fit the channels.
    """
    values = table.columns[column]
    pixels = values if isinstance(values, np.ndarray) else _decode(values, table, config.image_size)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.dtype.kind not in "uif":
        raise DataError(
            f"{table.source}: got images of shape {pixels.shape} and type {pixels.dtype}, expected "
            "[N, H, W] or [N, H, W, C] of numbers"
        )
    size = config.image_size
    if size is not None and pixels.shape[1:3] != (size, size):
        pixels = _resize(pixels, size)
    images = pixels.astype(np.float32)
    if pixels.dtype.kind in "ui":
        images *= np.float32(1 / 255)
    if not np.isfinite(images).all():
        raise DataError(f"{table.source}: got images with NaN or infinite pixels, expected numbers")
    mean, std = normalization(config, images.shape[-1])
    if config.image_mean is not None:
        images -= mean
    if config.image_std is not None:
        images /= std
    return images


def normalization(config: DataConfig, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel, float32 `[C]` each."""
    found = []
    for key, default in (("image_mean", 0.0), ("image_std", 1.0)):
        values = getattr(config, key)
        values = (default,) if values is None else values
        if len(values) not in (1, channels) or (key == "image_std" and 0.0 in values):
            raise DataError(
                f"data.{key}: got {list(values)}, expected 1 or {channels} numbers"
                f"{' other than 0' if key == 'image_std' else ''}, as the images have channels"
            )
        found.append(np.broadcast_to(np.array(values, np.float32), (channels,)))
    return found[0], found[1]


def shift_images(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, limit: int, fill: np.ndarray
) -> np.ndarray:
    """Move image `b` down by `rows[b]` and right by `columns[b]` pixels.

    Args:
      images: [B, H, W, C].
      rows: int [B], each within `-limit … limit`; so is `columns`.
      fill: value of uncovered pixels, [C].
    """
    batch, height, width, channels = images.shape
    padded = np.empty((batch, height + 2 * limit, width + 2 * limit, channels), images.dtype)
    padded[:] = fill
    padded[:, limit : limit + height, limit : limit + width] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    moved = windows[np.arange(batch), limit - rows, limit - columns]  # [B, C, H, W]
    return np.ascontiguousarray(moved.transpose(0, 2, 3, 1))


def _decode(values: Sequence[Any], table: Table, size: int | None) -> np.ndarray:
    """Read files, bytes or PIL images; grey ones stay one channel unless some are coloured."""
    from concurrent.futures import ThreadPoolExecutor

    def one(row: int) -> np.ndarray:
        return _picture(values[row], table, row, size)

    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(one, range(len(values))))
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [
            np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
            for picture in pictures
        ]
    for row, picture in enumerate(pictures):
        if picture.shape != pictures[0].shape:
            raise DataError(
                f"{_name(values[row], table, row)}: got {picture.shape[1]} x {picture.shape[0]} "
                f"pixels, expected {pictures[0].shape[1]} x {pictures[0].shape[0]} as in the first "
                "image; set data.image_size to bring all to one size"
            )
    return np.stack(pictures)


def _picture(value: Any, table: Table, row: int, size: int | None) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, dict):  # as Hugging Face datasets store images
        value = value.get("bytes") or value.get("path")
    try:
        file = io.BytesIO(value) if isinstance(value, bytes) else value
        picture = Image.open(file) if isinstance(file, io.BytesIO | str | Path) else file
        grey = picture.mode in ("1", "L", "I", "I;16", "F", "LA")
        picture = picture.convert("L" if grey else "RGB")
    except (UnidentifiedImageError, OSError, AttributeError, SyntaxError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{_name(value, table, row)}: not an image: {reason}; remove or replace it"
        ) from None
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _name(value: Any, table: Table, row: int) -> str:
    return str(value) if isinstance(value, Path) else table.at(row)


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize channel by channel in float32, bilinear with the area taken into account."""
    from PIL import Image

    resized = np.empty((len(pixels), size, size, pixels.shape[-1]), np.float32)
    for row in range(len(pixels)):
        for channel in range(pixels.shape[-1]):
            plane = Image.fromarray(pixels[row, :, :, channel].astype(np.float32))
            plane = plane.resize((size, size), Image.Resampling.BILINEAR)
            resized[row, :, :, channel] = np.asarray(plane)
    return (
        resized if pixels.dtype.kind == "f" else np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    )
