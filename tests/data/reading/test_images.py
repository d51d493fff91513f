"""Images from files and arrays: scaled, normalized, resized, and explained where they cannot be."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.images import shift_images, to_images
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError


def images(values, **options) -> np.ndarray:
    return to_images(Table({"image": values}, "x"), "image", DataConfig(source="digits", **options))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3), np.uint8)


def test_pixels_are_scaled_and_normalized():
    np.testing.assert_allclose(images(PIXELS), PIXELS[..., None] / 255, rtol=1e-6)
    found = images(COLOURS, image_mean=(0.5, 0.4, 0.3), image_std=(0.2,))
    np.testing.assert_allclose(found, (COLOURS / 255 - [0.5, 0.4, 0.3]) / 0.2, rtol=1e-4, atol=1e-5)
    floats = np.random.default_rng(0).random((2, 3, 3, 1))
    np.testing.assert_allclose(images(floats), floats, rtol=1e-6)
    assert images(floats).dtype == np.float32


@pytest.mark.parametrize("kind", ["bytes", "dict", "file", "picture"])
def test_files_bytes_and_pictures_are_read(tmp_path, kind):
    def stored(array, index):
        path = tmp_path / f"{index}.png"
        path.write_bytes(png(array))
        return {
            "bytes": png(array),
            "dict": {"bytes": png(array), "path": None},
            "file": path,
            "picture": Image.fromarray(array),
        }[kind]

    grey = [stored(array, index) for index, array in enumerate(PIXELS)]
    np.testing.assert_allclose(images(grey), PIXELS[..., None] / 255, rtol=1e-6)
    colour = [stored(array, index) for index, array in enumerate(COLOURS)]
    np.testing.assert_allclose(images(colour), COLOURS / 255, rtol=1e-6)


def test_grey_among_colours_gets_three_channels():
    found = images([png(PIXELS[0]), png(COLOURS[0])])
    assert found.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(found[0], np.repeat(PIXELS[0, ..., None], 3, -1) / 255, rtol=1e-6)


def test_sizes_are_brought_to_one():
    mixed = [png(PIXELS[0]), png(np.full((9, 2), 51, np.uint8))]
    assert images(mixed, image_size=6).shape == (2, 6, 6, 1)
    assert images(PIXELS, image_size=6).shape == (3, 6, 6, 1)
    flat = images(np.full((2, 4, 5, 3), 51, np.uint8), image_size=8)
    np.testing.assert_allclose(flat, 0.2, rtol=1e-6)
    files = images([png(array) for array in PIXELS], image_size=7)
    np.testing.assert_allclose(images(PIXELS, image_size=7), files, atol=1.5 / 255)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([png(PIXELS[0]), png(PIXELS[0][:2])], {}, "x row 2: got 5 x 2 pixels, expected 5 x 4"),
        ([png(PIXELS[0]), b"nonsense"], {}, "x row 2: not an image"),
        ([png(PIXELS[0]), png(PIXELS[0])[:60]], {}, "x row 2: not an image"),
        ([None], {}, "x row 1: not an image"),
        (np.ones((2, 3)), {}, r"got images of shape \(2, 3\)"),
        (np.full((2, 3, 3), np.nan), {}, "NaN or infinite pixels"),
        (np.full((2, 3, 3), 1e39), {"image_max": 2e39}, r"1e\+39 to 1e\+39, expected at most 3.4"),
        (PIXELS, {"image_mean": (0.1, 0.2)}, r"image_mean: got \[0.1, 0.2\], expected 1 or 1"),
        (PIXELS, {"image_std": (0.0,)}, r"image_std: got \[0.0\], .* other than 0"),
    ],
)
def test_what_is_no_image_is_named(values, options, message):
    with pytest.raises(DataError, match=message):
        images(values, **options)


def test_uncovered_pixels_get_the_fill():
    whole = np.ones((2, 4, 4, 2), np.float32)
    fill = np.array([-1, 5], np.float32)
    found = shift_images(whole, np.array([1, 0]), np.array([0, -2]), 2, fill)
    assert (found[0, 0] == fill).all()
    assert (found[0, 1:] == 1).all()
    assert (found[1, :, 2:] == fill).all()
    assert (found[1, :, :2] == 1).all()
