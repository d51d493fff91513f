"""Image files to arrays of grey or colour, whatever their mode, each oddity counted."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Cells, Remark, Table
from jaxdistill.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Raster formats that Pillow decodes itself: an EPS by another name would start Ghostscript.
FORMATS = (
    "PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"
)  # fmt: skip
WHITE = {"uint8": 255.0, "uint16": 65535.0}
_SIXTEEN_BITS = ("PNG", "PPM")  # what Pillow opens as 32 bits of these is 16 bits wide
_GREY = ("1", "L", "LA", "La")
_SEVERAL, _CLEAR, _DEEP, _COLOUR = "frames", "transparency", "sixteen bits", "colour"
_FAULTS = {
    _SEVERAL: "have several frames or pages, of which the first is read; split the others off, or "
    "ignore this",
    _CLEAR: "have transparent pixels and are laid on white; transformers' pipelines drop the "
    "transparency instead, so flatten the files for both to see the same",
    _DEEP: "have 16 bits per pixel, of which 65535 is white; Pillow, and with it transformers' "
    "pipelines, clips them at 255, so convert them to 8 bits for both to see the same",
    _COLOUR: "have colours and are made grey, as the model has one channel",
}
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Decoded images of one size.

    Attributes:
      pixels: uint8 of 0 to 255, or float32 whose white is 1; [N, H, W, C], C being 1 or 3.
      odd: kind of oddity -> the names of the images that have it.
    """

    pixels: np.ndarray
    odd: Mapping[str, Sequence[str]]


def read_pictures(
    values: Cells,
    table: Table,
    preprocessing: Preprocessing,
    *,
    channels: int | None = None,
    white: float | None = None,
) -> Pictures:
    """Read files, bytes, `datasets` images or Pillow images: turned upright, resized and cropped.

    Grey ones stay one channel unless some are coloured. Transparent pixels are laid on white.

    Args:
      values: one per image; relative paths are looked for beside the table's file, then in the
        working directory.
      channels: number of the model's channels, 1 or 3, where it says.
      white: value of a white pixel in files of fractions or of 32-bit numbers.

    Raises:
      DataError: images that cannot be read or differ in size; it counts them and names the first.
    """
    from PIL import Image

    Image.init()
    formats = tuple(name for name in FORMATS if name in Image.OPEN)
    source = Path(table.source)
    places = (source if source.is_dir() else source.parent, Path())

    def one(row: int) -> tuple[np.ndarray | None, list[str], str]:
        found: list[str] = []
        try:
            picture = _opened(values[row], formats, places, found)
            flat = _flat(picture, found, channels, white)
            return np.asarray(fitted(flat, preprocessing)), found, ""
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            lines = str(error).splitlines() or [type(error).__name__]
            return None, found, lines[0] or type(error).__name__

    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(one, range(len(values))))
    failed = [row for row, (array, _, _) in enumerate(read) if array is None]
    if failed:
        many = f" (and {len(failed) - 1:,} others of {len(read):,})" if len(failed) > 1 else ""
        raise DataError(
            f"{name_of(values[failed[0]], table, failed[0])}: not an image that can be read: "
            f"{read[failed[0]][2]}{many}; remove or replace it"
        )
    arrays = [array for array, _, _ in read if array is not None]
    _check_sizes([array.shape[:2] for array in arrays], values, table)
    odd: dict[str, list[str]] = {}
    for row, (_, found, _) in enumerate(read):
        for what in found:
            odd.setdefault(what, []).append(name_of(values[row], table, row))
    return Pictures(_stacked(arrays), odd)


def remarks_on(pictures: Sequence[Pictures], source: str) -> tuple[Remark, ...]:
    """Tell how many images of a data set are odd, and which is the first."""
    count = sum(len(part.pixels) for part in pictures)
    found = []
    for what, problem in _FAULTS.items():
        names = [name for part in pictures for name in part.odd.get(what, ())]
        if names:
            shown = f"{len(names):,} of {count:,} images of {source} {problem} (such as {names[0]})"
            found.append(Remark("images", shown))
    return tuple(found)


def fitted(picture: Image, preprocessing: Preprocessing) -> Image:
    """Resize and crop an image as transformers does."""
    from PIL import Image

    size = preprocessing.size
    if isinstance(size, int):
        short, long = sorted(picture.size)
        other = int(size * long / short)
        size = (other, size) if picture.width <= picture.height else (size, other)
    if size is not None and picture.size != (size[1], size[0]):
        filter_ = Image.Resampling(preprocessing.resample)
        picture = picture.resize((size[1], size[0]), filter_)
    if preprocessing.crop is not None:
        height, width = preprocessing.crop
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    return picture


def name_of(value: object, table: Table, row: int) -> str:
    """Say which image is meant: its file, else its row."""
    return str(value) if isinstance(value, Path) else table.at(row)


def _opened(
    value: object, formats: tuple[str, ...], places: tuple[Path, ...], found: list[str]
) -> Image:
    """Open an image upright; the format stays known."""
    from PIL import Image, ImageOps

    if isinstance(value, dict):  # as Hugging Face datasets store images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        picture = value
    elif isinstance(value, bytes | bytearray | memoryview):
        picture = Image.open(io.BytesIO(value), formats=formats)
    elif isinstance(value, str | Path):
        picture = Image.open(_found(value, places), formats=formats)
    else:
        raise ValueError(f"got {value!r:.40}, expected a path, the bytes of a file or an image")
    # A photograph with its preview is one picture.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        found.append(_SEVERAL)
    kind = picture.format
    upright = ImageOps.exif_transpose(picture)
    upright.format = kind
    return upright


def _found(path: str | Path, places: tuple[Path, ...]) -> Path:
    tried = [place / path for place in places]
    file = next((file for file in tried if file.is_file()), None)
    if file is None:
        raise ValueError(f"no such file {str(path)!r}; looked in {places[0]} and here")
    return file


def _flat(picture: Image, found: list[str], channels: int | None, white: float | None) -> Image:
    """Bring any mode to `L`, `RGB`, or `F` with 1 for white."""
    from PIL import Image

    mode = picture.mode
    sixteen = mode.startswith("I;16") or (mode == "I" and picture.format in _SIXTEEN_BITS)
    if sixteen or mode in ("I", "F"):
        if sixteen:
            found.append(_DEEP)
        top = white or (65535.0 if sixteen else 1.0)
        pixels = np.asarray(picture).astype(np.float32) / np.float32(top)
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1 + 1e-3:
            kind = "fractions" if mode == "F" else "whole numbers"
            raise ValueError(
                f"got {kind} from {pixels.min() * top:g} to {pixels.max() * top:g}, expected 0 to "
                f"{top:g}; say which number is white as data.image_max"
            )
        return Image.fromarray(pixels)
    if picture.has_transparency_data:
        grey = mode in _GREY
        picture = (picture.convert("LA") if mode == "La" else picture).convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            found.append(_CLEAR)
            white_ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white_ground, picture)
        picture = picture.convert("RGB")
        mode = "L" if grey else "RGB"
    if channels == 1 and mode not in _GREY:
        picture = picture.convert("RGB")
        red, green, blue = (np.asarray(band) for band in picture.split())
        if (red != green).any() or (red != blue).any():
            found.append(_COLOUR)
        return picture.convert("L")
    return picture.convert("L" if mode in _GREY else "RGB")


def _check_sizes(shapes: list[tuple[int, ...]], values: Cells, table: Table) -> None:
    counts = Counter(shapes)
    if len(counts) < 2:
        return
    row = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
    common = ", ".join(f"{w} x {h} ({n:,})" for (h, w), n in counts.most_common(_SHOWN))
    more = f" and {len(counts) - _SHOWN:,} other sizes" if len(counts) > _SHOWN else ""
    raise DataError(
        f"{name_of(values[row], table, row)}: got {shapes[row][1]} x {shapes[row][0]} pixels, "
        f"expected {shapes[0][1]} x {shapes[0][0]} as in the first image; there are {common}"
        f"{more}; set data.image_size to bring all to one size"
    )


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Stack to [N, H, W, C]; 16-bit ones among 8-bit ones make all of them fractions."""
    if any(array.dtype != np.uint8 for array in arrays):
        arrays = [
            array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array
            for array in arrays
        ]
    coloured = any(array.ndim == 3 for array in arrays)
    return np.stack(
        [
            np.repeat(array[..., None], 3, axis=2) if coloured and array.ndim == 2 else array
            for array in arrays
        ]
        if coloured
        else [array[..., None] for array in arrays]
    )
