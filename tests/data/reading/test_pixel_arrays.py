"""Arrays of pixels: what is white is told by type and range, or asked for."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.images import read_images, to_images
from jaxdistill.data.reading.pixel_arrays import as_array
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
PIXELS[0, 0, 0] = [0, 255, 128]


def read(values, **options) -> np.ndarray:
    return to_images(Table({"image": values}, "x"), "image", DataConfig(source="digits", **options))


@pytest.mark.parametrize("kind", ["uint8", "int64", "uint16", "float32", "float64", "float16"])
def test_pixels_of_255_are_scaled_whatever_their_type(kind):
    np.testing.assert_allclose(read(PIXELS.astype(kind)), PIXELS / 255, atol=1e-6)


def test_other_ranges():
    deep = PIXELS.astype(np.uint16) * 257
    np.testing.assert_allclose(read(deep), PIXELS / 255, atol=1e-6)
    fractions = PIXELS / 255
    np.testing.assert_allclose(read(fractions), fractions, atol=1e-6)
    np.testing.assert_allclose(read(fractions.astype(np.float16)), fractions, atol=1e-3)
    np.testing.assert_array_equal(read(PIXELS > 127), PIXELS > 127)
    sixteenths = (PIXELS // 16).astype(np.float64)
    with pytest.raises(DataError, match=r"float64 pixels from 0 to 15, .*data\.image_max"):
        read(sixteenths)
    np.testing.assert_allclose(read(sixteenths, image_max=15), sixteenths / 15, atol=1e-6)
    for wrong in (PIXELS.astype(np.int32) * 257, PIXELS.astype(np.int16) - 1):
        with pytest.raises(DataError, match=r"data\.image_max"):
            read(wrong)
    # Digits as scikit-learn has them, kept in bytes.
    small = PIXELS // 16
    np.testing.assert_allclose(read(small, image_max=15), small / 15, atol=1e-6)


def test_normalized_ones_stay_and_are_told():
    normal = np.random.default_rng(0).normal(size=(3, 4, 4, 1))
    table = Table({"image": normal}, "x")
    found, remarks = read_images({"train": table}, "image", Preprocessing())
    np.testing.assert_allclose(found["train"], normal, rtol=1e-6)
    assert "taken as normalized already" in remarks[0].message


def test_white_is_one_number_for_all_splits():
    bright, dark = np.full((2, 3, 3), 1000, np.uint16), np.full((2, 3, 3), 100, np.uint16)
    bright[0, 0, 0] = dark[0, 0, 0] = 0
    tables = {"train": Table({"image": bright}, "x"), "validation": Table({"image": dark}, "y")}
    found, _ = read_images(tables, "image", Preprocessing())
    np.testing.assert_allclose(found["validation"].max(), 100 / 65535, rtol=1e-5)


def test_channels_first_are_turned():
    turned = PIXELS.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(read(turned), PIXELS / 255, atol=1e-6)
    assert read(np.zeros((2, 1, 6, 5), np.uint8)).shape == (2, 6, 5, 1)
    bands = np.zeros((2, 6, 5, 12), np.uint8)
    assert read(bands).shape == (2, 6, 5, 12)


def test_lists_in_cells_are_pixels():
    # As `datasets.Array2D` and `Array3D` come out of Parquet.
    np.testing.assert_allclose(read(PIXELS.tolist()), PIXELS / 255, atol=1e-6)
    np.testing.assert_allclose(read(list(PIXELS[..., 0])), PIXELS[..., :1] / 255, atol=1e-6)
    with pytest.raises(DataError, match="lists of different shapes"):
        read([[[1, 2]], [[1, 2, 3]]])
    with pytest.raises(DataError, match=r"got images of shape \(2, 2, 1\)|shape \(2, 2\)"):
        read([["a", "b"], ["c", "d"]])
    assert as_array([b"", b""], Table({}, "x")) is None


def test_a_size_that_is_no_square():
    assert read(PIXELS, image_size=(3, 8)).shape == (4, 3, 8, 3)
    flat = np.full((2, 4, 4, 1), 51, np.uint8)
    np.testing.assert_allclose(read(flat, image_size=(3, 8)), 0.2, rtol=1e-6)
