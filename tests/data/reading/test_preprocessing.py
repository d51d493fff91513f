"""Image processors of Hugging Face folders: pixels equal those of transformers, both ways."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.images import read_images
from jaxdistill.data.reading.preprocessing import (
    Preprocessing,
    differences,
    output_size,
    overridden,
    processor_config,
    read_preprocessing,
    with_options,
)
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CROPPED = {"do_center_crop": True, "crop_size": {"height": 12, "width": 10}}
# As public models store them, at sizes that are fast; the old files name a feature extractor.
PROCESSORS = {
    "vit": {
        "image_processor_type": "ViTImageProcessor",
        **HALF,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 16, "width": 16},
    },
    "old vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 14, **HALF},
    "wide": {
        "image_processor_type": "ViTImageProcessorFast",
        "size": {"height": 10, "width": 18},
        "resample": 0,
    },
    "defaults": {"image_processor_type": "ViTImageProcessor"},
    "resnet": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        **IMAGENET,
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": 24,
    },
    "resnet warped": {
        "image_processor_type": "ConvNextImageProcessor",
        **IMAGENET,
        "crop_pct": 0.95,
        "size": {"shortest_edge": 384},
    },
    "deit": {
        "image_processor_type": "DeiTImageProcessor",
        **IMAGENET,
        "size": {"height": 18, "width": 18},
        "crop_size": {"height": 16, "width": 16},
    },
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 15, "width": 15},
    },
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 13}, **CROPPED},
    "padded": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 9},
        "crop_size": {"height": 20, "width": 15},
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 8, "width": 8}},
    "beit": {
        "image_processor_type": "BeitImageProcessor",
        "size": 12,
        "crop_size": 10,
        "do_center_crop": True,
        "do_reduce_labels": True,
    },
    "no rescaling": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "do_rescale": False,
        "image_mean": [127.5, 127.5, 127.5],
        "image_std": [60, 61, 62],
    },
    "no normalizing": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "rescale_factor": 1 / 127.5,
        "do_normalize": False,
    },
    "model": {"size": 20, **IMAGENET},
}


def pictures(*sizes: tuple[int, int], channels: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(0)
    shape = (3,) if channels == 3 else ()
    return [
        Image.fromarray(random.integers(0, 256, (height, width, *shape), np.uint8))
        for height, width in sizes
    ]


def written(folder: Path, raw: dict, model_type: str = "resnet", name="preprocessor_config.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(raw))
    config = {"vit": "ViTForImageClassification", "resnet": "ResNetForImageClassification"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "architectures": [config[model_type]]})
    )
    return folder


def theirs(folder: Path, images: list[Image.Image]) -> np.ndarray:
    from transformers import AutoImageProcessor

    found = AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="np")
    return found["pixel_values"].transpose(0, 2, 3, 1)


def ours(
    preprocessing: Preprocessing, images: Sequence[Image.Image] | np.ndarray, **options
) -> np.ndarray:
    found, _ = read_images(
        {"train": Table({"image": images}, "x")}, "image", preprocessing, **options
    )
    return found["train"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_those_of_transformers(name, tmp_path):
    images = pictures((31, 23), (20, 33), (16, 16))
    written(tmp_path, PROCESSORS[name])
    preprocessing = read_preprocessing(tmp_path, "resnet")
    assert preprocessing is not None
    found, expected = ours(preprocessing, images), theirs(tmp_path, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape[1:3] == output_size(preprocessing)
    # What is exported does the same, whichever class it names.
    exported = processor_config(preprocessing, *found.shape[1:])
    again = theirs(written(tmp_path / "export", exported), images)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5)
    # Arrays go the same way as files of the same pixels.
    arrays = np.stack([np.asarray(images[0]), np.asarray(images[0])[::-1]])
    np.testing.assert_allclose(ours(preprocessing, arrays)[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"image_size": 9}, {"image_size": (7, 11)}])
def test_an_export_without_a_processor_to_start_from(options, tmp_path):
    config = DataConfig(source="digits", image_mean=(0.3,), image_std=(0.2,), **options)
    preprocessing = with_options(Preprocessing(), config)
    for channels in (1, 3):
        images = pictures((12, 8), (12, 8), channels=channels)
        found = ours(preprocessing, images)
        raw = processor_config(preprocessing, *found.shape[1:])
        json.dumps(raw)
        folder = written(tmp_path, raw, "vit")
        np.testing.assert_allclose(theirs(folder, images), found, rtol=1e-5, atol=1e-5)
        # Another size is brought to that of the images trained on.
        assert theirs(folder, pictures((5, 30), channels=channels)).shape[1:] == found.shape[1:]
    plain = processor_config(Preprocessing(), 4, 4, 3)
    assert not plain["do_normalize"]
    np.testing.assert_allclose(
        theirs(written(tmp_path, plain, "vit"), images), ours(Preprocessing(size=(4, 4)), images)
    )


def test_grey_images_of_a_colour_model_are_repeated(tmp_path):
    images = pictures((12, 12), (12, 12), channels=1)
    folder = written(tmp_path, PROCESSORS["vit"], "vit")
    preprocessing = read_preprocessing(folder, "vit")
    assert preprocessing is not None
    colour = [image.convert("RGB") for image in images]
    found = ours(preprocessing, images, channels=3)
    np.testing.assert_allclose(found, theirs(folder, colour), rtol=1e-5, atol=1e-5)


def test_a_processor_inside_of_another_file_goes_first(tmp_path):
    written(tmp_path, {"size": 5})
    nested = {"image_processor": PROCESSORS["vit"], "processor_class": "X"}
    written(tmp_path, nested, name="processor_config.json")
    found = read_preprocessing(tmp_path, "resnet")
    assert found is not None
    images = pictures((31, 23))
    np.testing.assert_allclose(ours(found, images), theirs(tmp_path, images), rtol=1e-5, atol=1e-5)
    written(tmp_path, {"processor_class": "X"}, name="processor_config.json")
    found = read_preprocessing(tmp_path, "vit")
    assert found is not None
    assert found.size == (5, 5)


def test_a_folder_without_a_processor_has_none(tmp_path):
    assert read_preprocessing(tmp_path, "vit") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_pad": True}, "asks for do_pad, which is not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"apply_ocr": True}, "apply_ocr"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "'EfficientNetImageProcessor'"),
        ({"size": {"shortest_edge": 8, "longest_edge": 12}}, "got size .*longest_edge"),
        ({"size": {"max_height": 8, "max_width": 12}}, "got size .*max_height"),
        ({"size": "large"}, "cannot be understood"),
        ({"resample": "bicubic"}, "got resample 'bicubic'"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 8, "width": 8}},
            "expected a shortest_edge",
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 8, "do_center_crop": True},
            "no crop",
        ),
    ],
)
def test_what_is_not_supported_is_named(changes, message, tmp_path):
    written(tmp_path, {**PROCESSORS["vit"], **changes})
    with pytest.raises(DataError, match=message) as raised:
        read_preprocessing(tmp_path, "vit")
    assert "preprocessor_config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_damaged_processor_is_named(content, tmp_path):
    (tmp_path / "preprocessor_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"preprocessor_config\.json: "):
        read_preprocessing(tmp_path, "vit")


def test_options_go_first_and_contradictions_are_told():
    own = Preprocessing(size=20, crop=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    config = DataConfig(source="digits", image_size=8, image_mean=(0.1, 0.2, 0.3), image_std=(0.5,))
    found = with_options(own, config)
    assert (found.size, found.crop, found.mean, found.std) == (
        (8, 8), None, (0.1, 0.2, 0.3), (0.5,)
    )  # fmt: skip
    told = overridden(own, config)
    assert told == [
        "data.image_size=[8, 8] instead of [16, 16]",
        "data.image_mean=[0.1, 0.2, 0.3] instead of 0.5",
    ]
    assert overridden(own, DataConfig(source="digits", image_size=16, image_mean=(0.5,))) == []
    assert with_options(own, DataConfig(source="digits")) == own
    assert differences(own, own) == []
    assert [line.split(" ")[0] for line in differences(own, found)] == ["size", "crop", "mean"]
