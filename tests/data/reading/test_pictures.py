"""Images of every mode: read as NumPy and Pillow say, and counted where they are odd."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.images import read_images, to_images
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5), np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 5, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (6, 5), np.uint8)
DEEP = RANDOM.integers(0, 65536, (6, 5), np.uint16)


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(*values, channels=None, white=None, **steps) -> tuple[np.ndarray, str]:
    """Return pixels of 0 to 1 and what was told."""
    table = Table({"image": list(values)}, "x")
    found, remarks = read_images(
        {"train": table}, "image", Preprocessing(**steps), channels=channels, white=white
    )
    return found["train"], "; ".join(remark.message for remark in remarks)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float).reshape(*alpha.shape, *[1] * (colour.ndim - 2)) / 255
    return colour / 255 * share + (1 - share)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_precision(kind):
    found, told = read(stored(Image.fromarray(DEEP), kind))
    np.testing.assert_allclose(found[0, ..., 0], DEEP / 65535, atol=1e-6)
    assert "1 of 1 images of x have 16 bits per pixel" in told


def test_sixteen_bits_among_eight():
    found, _ = read(stored(Image.fromarray(GREY)), stored(Image.fromarray(DEEP)))
    np.testing.assert_allclose(found[0, ..., 0], GREY / 255, atol=1e-6)
    np.testing.assert_allclose(found[1, ..., 0], DEEP / 65535, atol=1e-6)
    found, _ = read(stored(Image.fromarray(COLOUR)), stored(Image.fromarray(DEEP)))
    np.testing.assert_allclose(found[0], COLOUR / 255, atol=1e-6)
    np.testing.assert_allclose(found[1], np.repeat(DEEP[..., None], 3, 2) / 65535, atol=1e-6)


def test_sixteen_bits_are_resized_as_fractions():
    found, _ = read(stored(Image.fromarray(DEEP)), size=(3, 4), scale=1.0)
    plane = Image.fromarray(DEEP.astype(np.float32) / 65535 * 255)
    expected = np.asarray(plane.resize((4, 3), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-3)


def test_twelve_bits_in_sixteen_are_dark_unless_white_is_named():
    twelve = stored(Image.fromarray((DEEP // 16).astype(np.uint16)))
    found, told = read(twelve)
    np.testing.assert_allclose(found[0, ..., 0], DEEP // 16 / 65535, atol=1e-6)
    assert "the brightest pixel of x has 0.0" in told
    assert "data.image_max" in told
    found, told = read(twelve, white=4095.0)
    np.testing.assert_allclose(found[0, ..., 0], DEEP // 16 / 4095, atol=1e-6)
    assert "brightest" not in told
    with pytest.raises(DataError, match=r"data\.image_max: got 4095, .* have 8 bits"):
        read(stored(Image.fromarray(GREY)), white=4095.0)


def test_fractions_and_wide_numbers():
    fractions = GREY.astype(np.float32) / 255
    found, told = read(stored(Image.fromarray(fractions), "TIFF"))
    np.testing.assert_allclose(found[0, ..., 0], fractions, atol=1e-6)
    assert told == ""
    wide = stored(Image.fromarray(GREY.astype(np.int32) * 1000), "TIFF")
    with pytest.raises(DataError, match=r"whole numbers from \d+ to \d+, .*data\.image_max"):
        read(wide)
    found, _ = read(wide, white=255000.0)
    np.testing.assert_allclose(found[0, ..., 0], GREY / 255, atol=1e-6)
    with pytest.raises(DataError, match=r"fractions from .* to 2\d\d, expected 0 to 1"):
        read(stored(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["colour", "grey", "palette", "palette of one colour", "key"])
def test_transparent_pixels_are_laid_on_white(kind):
    transparent = ALPHA < 128
    if kind == "colour":
        value = stored(Image.fromarray(np.dstack([COLOUR, ALPHA])))
        expected = on_white(COLOUR, ALPHA)
    elif kind == "grey":
        value = stored(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"))
        expected = on_white(GREY, ALPHA)[..., None]
    elif kind == "palette":
        paletted = Image.fromarray(GREY % 7, "P")
        paletted.putpalette(RANDOM.integers(0, 256, 21).astype(np.uint8).tobytes())
        alphas = bytes([0, 255, 100, 255, 255, 255, 30])
        value = stored(paletted, transparency=alphas)
        opacity = np.frombuffer(alphas, np.uint8)[GREY % 7]
        expected = on_white(np.asarray(paletted.convert("RGB")), opacity)
    elif kind == "palette of one colour":  # as GIF has it
        paletted = Image.fromarray(transparent.astype(np.uint8), "P")
        paletted.putpalette([200, 10, 0, 0, 0, 0])
        value = stored(paletted, "GIF", transparency=1)
        expected = np.where(transparent[..., None], 1.0, np.array([200, 10, 0]) / 255)
    else:
        grey = np.where(transparent, 7, 50).astype(np.uint8)
        value = stored(Image.fromarray(grey), transparency=7)
        expected = np.where(transparent, 1.0, 50 / 255)[..., None]
    found, told = read(value)
    np.testing.assert_allclose(found[0], expected, atol=1.01 / 255)
    assert "1 of 1 images of x have transparent pixels" in told


def test_an_opaque_alpha_changes_nothing():
    opaque = np.full_like(ALPHA, 255)
    found, told = read(stored(Image.fromarray(np.dstack([COLOUR, opaque]))))
    np.testing.assert_array_equal(found[0], COLOUR.astype(np.float32) * np.float32(1 / 255))
    assert told == ""


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_what_pillow_makes_of_them(mode):
    image = Image.fromarray(COLOUR).convert("RGB" if mode == "LAB" else mode)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    kind = {"CMYK": "TIFF", "YCbCr": "JPEG", "LAB": "TIFF"}.get(mode, "PNG")
    value = stored(image, kind)
    found, told = read(value)
    expected = np.asarray(Image.open(io.BytesIO(value)).convert("L" if mode == "1" else "RGB"))
    np.testing.assert_allclose(found[0], expected.reshape(found[0].shape) / 255, atol=1e-6)
    assert told == ""


@pytest.mark.parametrize("orientation", range(2, 9))
def test_photographs_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    value = stored(Image.fromarray(COLOUR), exif=exif)
    found, _ = read(value)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(value)))
    np.testing.assert_allclose(found[0], np.asarray(upright) / 255, atol=1e-6)
    assert (found.shape[1:3] == (5, 6)) == (orientation > 4)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_of_several_is_read_and_told(kind):
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (50, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    value = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found, told = read(value)
    np.testing.assert_allclose(found[0], 50 / 255, atol=1 / 255)
    assert "1 of 1 images of x have several frames or pages" in told


def test_colours_for_a_grey_model():
    found, told = read(stored(Image.fromarray(COLOUR)), channels=1)
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"))
    np.testing.assert_allclose(found[0, ..., 0], expected / 255, atol=1e-6)
    assert "have colours and are made grey" in told
    grey, told = read(stored(Image.fromarray(GREY).convert("RGB")), channels=1)
    np.testing.assert_allclose(grey[0, ..., 0], GREY / 255, atol=1e-6)
    assert told == ""


def test_splits_get_the_same_channels_and_sizes():
    grey, colour = (
        Table({"image": [stored(Image.fromarray(GREY))]}, "grey"),
        Table({"image": [stored(Image.fromarray(COLOUR))]}, "colour"),
    )
    found, _ = read_images({"train": grey, "validation": colour}, "image", Preprocessing())
    assert found["train"].shape == found["validation"].shape == (1, 6, 5, 3)
    small = Table({"image": [stored(Image.fromarray(COLOUR[:4]))]}, "small")
    with pytest.raises(
        DataError, match=r"small: got validation images .*\(4, 5, 3\), .*image_size"
    ):
        read_images({"train": colour, "validation": small}, "image", Preprocessing())


def test_a_path_is_looked_for_beside_its_table(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(stored(Image.fromarray(GREY)))
    table = Table({"image": ["pictures/a.png"]}, str(tmp_path / "list.csv"))
    config = DataConfig(source="digits")
    np.testing.assert_allclose(to_images(table, "image", config)[0, ..., 0], GREY / 255, atol=1e-6)
    monkeypatch.chdir(tmp_path)
    here = Table({"image": [{"bytes": None, "path": "pictures/a.png"}]}, "x")
    assert to_images(here, "image", config).shape == (1, 6, 5, 1)
    with pytest.raises(DataError, match=r"x row 1: .* no such file 'b\.png'"):
        to_images(Table({"image": ["b.png"]}, "x"), "image", config)


def test_all_that_cannot_be_read_is_counted():
    good = stored(Image.fromarray(COLOUR), "JPEG")
    with pytest.raises(DataError, match=r"x row 2: .*and 2 others of 4\); remove") as raised:
        read(good, b"nonsense", good[:-40], None)
    assert "\n" not in str(raised.value)


def test_no_other_program_is_started_and_no_bomb_goes_off(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("started"))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    Image.open(io.BytesIO(postscript))  # Pillow knows it
    with pytest.raises(DataError, match="x row 1: not an image that can be read"):
        read(postscript)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"x row 1: .*decompression bomb"):
        read(stored(Image.fromarray(GREY)))


def test_sizes_that_differ_are_counted():
    small, large = stored(Image.fromarray(GREY[:4])), stored(Image.fromarray(GREY))
    with pytest.raises(DataError, match=r"row 3: got 5 x 4 .*there are 5 x 6 \(2\), 5 x 4 \(1\);"):
        read(large, large, small)


def test_images_of_one_colour_are_told():
    _, told = read(
        *[stored(Image.fromarray(np.zeros_like(GREY)))] * 2, stored(Image.fromarray(GREY))
    )
    assert "2 of 3 images of x are of one colour throughout" in told


def test_files_keep_their_name_in_remarks(tmp_path):
    path = Path(tmp_path) / "deep.png"
    path.write_bytes(stored(Image.fromarray(DEEP)))
    _, told = read(path)
    assert f"(such as {path})" in told
