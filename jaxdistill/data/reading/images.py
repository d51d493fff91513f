"""Images of a data set to float32 arrays of one shape, and the random shift of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.pictures import Pictures, read_pictures, remarks_on
from jaxdistill.data.reading.pixel_arrays import as_array, fit_arrays, white_of
from jaxdistill.data.reading.preprocessing import Preprocessing, with_options
from jaxdistill.data.reading.table import Remark, Table
from jaxdistill.errors import DataError

_DARK = 1 / 8
_BLANK_SHARE = 0.01


def to_images(table: Table, column: str, config: DataConfig) -> np.ndarray:
    """Return a column as float32 `[N, H, W, C]`, as `data` alone says; see `read_images`."""
    chosen = with_options(Preprocessing(), config)
    found, _ = read_images({"train": table}, column, chosen, white=config.image_max)
    return found["train"]


def read_images(
    tables: Mapping[str, Table],
    column: str,
    preprocessing: Preprocessing,
    *,
    channels: int | None = None,
    white: float | None = None,
) -> tuple[dict[str, np.ndarray], tuple[Remark, ...]]:
    """Return a column of every split as float32 `[N, H, W, C]`, preprocessed, and what was noticed.

    Pixels are counted from 0 to 255, whatever the files hold, and then become
    `(pixel * scale - mean) / std`. Height, width and channels are the same in all splits.

    Args:
      tables: split -> its rows.
      channels: number of the model's channels, where it says; grey images are repeated for one of
        3.
      white: `data.image_max`.

    Raises:
      DataError: an image is damaged, sizes differ and nothing resizes them, which number is white
        cannot be determined, or the normalization does not fit the channels.
    """
    arrays = {part: as_array(table.columns[column], table) for part, table in tables.items()}
    numbers = {part: array for part, array in arrays.items() if array is not None}
    source = next(iter(tables.values())).source
    top, remarks = white_of(numbers, white, source) if numbers else (1.0, ())
    pixels: dict[str, np.ndarray] = {}
    pictures: list[Pictures] = []
    for part, table in tables.items():
        array = numbers.get(part)
        if array is not None:
            pixels[part] = fit_arrays(array, top, preprocessing)
            continue
        found = read_pictures(
            table.columns[column], table, preprocessing, channels=channels, white=white
        )
        if white is not None and found.pixels.dtype == np.uint8:
            raise DataError(
                f"data.image_max: got {white:g}, but the images of {table.source} have 8 bits, of "
                "which 255 is white; drop it"
            )
        pixels[part] = found.pixels
        pictures.append(found)
    if channels == 3 or any(array.shape[3] == 3 for array in pixels.values()):
        pixels = {
            part: np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array
            for part, array in pixels.items()
        }
    _check_shapes(pixels, tables)
    remarks += remarks_on(pictures, source) + _oddities(pixels, source)
    return {part: _normalized(array, preprocessing) for part, array in pixels.items()}, remarks


def normalization(preprocessing: Preprocessing, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel, float32 `[C]` each.

    Raises:
      DataError: another count of numbers, or a standard deviation of 0.
    """
    found = []
    for key, values in (("image_mean", preprocessing.mean), ("image_std", preprocessing.std)):
        if len(values) not in (1, channels) or (key == "image_std" and 0.0 in values):
            raise DataError(
                f"{key}: got {list(values)}, expected 1 or {channels} numbers"
                f"{' other than 0' if key == 'image_std' else ''}, as the images have channels; "
                f"set data.{key}"
            )
        found.append(np.broadcast_to(np.array(values, np.float32), (channels,)))
    return found[0], found[1]


def _normalized(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    mean, std = normalization(preprocessing, pixels.shape[3])
    images = pixels.astype(np.float32)
    factor = preprocessing.scale * (1 if pixels.dtype == np.uint8 else 255)
    if factor != 1:
        images *= np.float32(factor)
    if mean.any():
        images -= mean
    if (std != 1).any():
        images /= std
    return images


def _check_shapes(pixels: Mapping[str, np.ndarray], tables: Mapping[str, Table]) -> None:
    shapes = {part: array.shape[1:] for part, array in pixels.items()}
    first = next(iter(shapes))
    for part, shape in shapes.items():
        if shape != shapes[first]:
            size = "" if shape[:2] == shapes[first][:2] else "; set data.image_size"
            raise DataError(
                f"{tables[part].source}: got {part} images of height, width and channels {shape}, "
                f"expected {shapes[first]} as in {first}{size}"
            )


def _oddities(pixels: Mapping[str, np.ndarray], source: str) -> tuple[Remark, ...]:
    """Say that images use little of their range, or show nothing."""
    remarks, blank, count, low, high = [], 0, 0, 0.0, 0.0
    for array in pixels.values():
        flat = array.reshape(len(array), -1)
        least, most = flat.min(axis=1), flat.max(axis=1)
        top = 255 if array.dtype == np.uint8 else 1
        low, high = min(low, float(least.min()) / top), max(high, float(most.max()) / top)
        blank += int((least == most).sum())
        count += len(array)
    if low >= 0 and high < _DARK:
        message = (
            f"the brightest pixel of {source} has {high:.4f} of white, so images hardly differ; "
            "if white is another number (4095 of cameras with 12 bits), say it as data.image_max, "
            "or set data.image_mean and data.image_std"
        )
        remarks.append(Remark("images", message))
    if blank > _BLANK_SHARE * count:
        message = (
            f"{blank:,} of {count:,} images of {source} are of one colour throughout, so nothing "
            "can be seen in them; look at how the files were written"
        )
        remarks.append(Remark("images", message))
    return tuple(remarks)


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
