"""What happens to pixels before a model sees them, as Hugging Face image processors say it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdistill.config.schema import DataConfig
from jaxdistill.errors import DataError
from jaxdistill.types import Json

_HALVES = (0.5, 0.5, 0.5)
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
# What transformers' processors take where a file leaves it out, beside `_COMMON`; an image size of
# one number is a square unless `shortest` is set.
_PROCESSORS: dict[str, Json] = {
    "ViT": {"resample": 2},
    "DeiT": {"size": 256, "do_center_crop": True},
    "Beit": {},
    "Siglip": {},
    "ConvNext": {"size": {"shortest_edge": 384}, "shortest": True, "crop_pct": 224 / 256},
    "CLIP": {**_CLIP, "shortest": True},
    "Bit": {**_CLIP, "shortest": True},
}
_COMMON = {
    "size": 224,
    "crop_size": 224,
    "resample": 3,
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _HALVES,
    "image_std": _HALVES,
}
_OF_MODELS = {"vit": "ViT", "resnet": "ConvNext"}
# Steps of other processors that change nothing here: labels are no maps, and channels are brought
# to those of the model anyway.
_HARMLESS = ("do_convert_rgb", "do_reduce_labels")
_WARPED_FROM = 384  # ConvNeXt crops below this size and squeezes from it on
FILE = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Steps from pixels to a model's input, in the order of the fields.

    Attributes:
      size: (height, width) to resize to; one number is the shorter edge, the shape being kept;
        None leaves images as they are.
      crop: (height, width) that are cut from the middle, black where the image is smaller.
      resample: Pillow's number of the filter of the resizing; 2 is bilinear, 3 bicubic.
      scale: factor of pixels of 0 to 255.
      mean: subtracted afterwards; one number or one per channel.
      std: divided by at last; one number or one per channel.
    """

    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    resample: int = 2
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def with_options(preprocessing: Preprocessing, config: DataConfig) -> Preprocessing:
    """Return it with what `data.image_size`, `data.image_mean` and `data.image_std` say instead."""
    changes: dict[str, Any] = {}
    if config.image_size is not None:
        size = config.image_size
        changes |= {"size": (size, size) if isinstance(size, int) else size, "crop": None}
    for key in ("mean", "std"):
        value = getattr(config, f"image_{key}")
        if value is not None:
            changes[key] = value
    return dataclasses.replace(preprocessing, **changes)


def overridden(preprocessing: Preprocessing, config: DataConfig) -> list[str]:
    """List the options under `data` that contradict it, each with both values."""
    chosen = with_options(preprocessing, config)
    pairs = {
        "image_size": (output_size(chosen), output_size(preprocessing)),
        "image_mean": (_spread(chosen.mean), _spread(preprocessing.mean)),
        "image_std": (_spread(chosen.std), _spread(preprocessing.std)),
    }
    return [
        f"data.{key}={_shown(ours)} instead of {_shown(theirs)}"
        for key, (ours, theirs) in pairs.items()
        if getattr(config, key) is not None and ours != theirs
    ]


def differences(first: Preprocessing, second: Preprocessing) -> list[str]:
    """List the fields in which two of them differ, each with both values."""
    found = []
    for field in dataclasses.fields(Preprocessing):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("mean", "std"):
            ours, theirs = _spread(ours), _spread(theirs)
        if ours != theirs:
            found.append(f"{field.name} {_shown(ours)} against {_shown(theirs)}")
    return found


def output_size(preprocessing: Preprocessing) -> tuple[int, int] | None:
    """Return the height and width that every image ends up with, or None where they are its own."""
    if preprocessing.crop is not None:
        return preprocessing.crop
    return None if isinstance(preprocessing.size, int) else preprocessing.size


def read_preprocessing(folder: Path, model_type: str) -> Preprocessing | None:
    """Read the image processor of a Hugging Face folder, or return None where it has none.

    As in transformers, the processor inside of `processor_config.json` goes first, and what the
    file leaves out is the default of the processor's class.

    Args:
      model_type: names the class where the file does not.

    Raises:
      DataError: the file is damaged, or asks for a step that is not supported, which is named.
    """
    raw, path = _stored(folder)
    if raw is None:
        return None
    found = raw.get("image_processor_type") or raw.get("feature_extractor_type")
    kind = _kind(found, model_type, path)
    given = {key: value for key, value in raw.items() if value is not None}
    values = {**_COMMON, **_PROCESSORS[kind], **given}
    asked = [
        key
        for key, value in given.items()
        if value and (key.startswith(("do_", "apply_")) or key in ("rescale_offset", "include_top"))
        if key not in _COMMON and key not in _HARMLESS
    ]
    if asked:
        raise DataError(
            f"{path}: asks for {', '.join(asked)}, which is not supported, expected only "
            "do_resize, do_center_crop, do_rescale and do_normalize; apply it to the images and "
            "set it to false"
        )
    try:
        return _read(values, kind, str(path))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise DataError(
            f"{path}: cannot be understood ({type(error).__name__}: {error}); save the image "
            "processor anew"
        ) from None


def processor_config(preprocessing: Preprocessing, height: int, width: int, channels: int) -> Json:
    """Build the `preprocessor_config.json` that does the same in transformers.

    Args:
      height: height of the images as trained on, which others are brought to where nothing resizes.
      width: width of the images as trained on.
      channels: number of channels of the images as trained on.
    """
    size, crop = preprocessing.size, preprocessing.crop
    if size is None and crop is None:
        size = (height, width)
    mean, std = (
        list(values) * channels if len(values) == 1 else list(values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    found: Json = {
        # ViT's knows neither a crop nor a shortest edge in older versions, CLIP's does.
        "image_processor_type": (
            "ViTImageProcessor"
            if crop is None and isinstance(size, tuple)
            else "CLIPImageProcessor"
        ),
        "do_convert_rgb": channels == 3,
        "do_resize": size is not None,
        "resample": preprocessing.resample,
        "do_center_crop": crop is not None,
        "do_rescale": preprocessing.scale != 1.0,
        "rescale_factor": preprocessing.scale,
        "do_normalize": any(mean) or any(value != 1.0 for value in std),
        "image_mean": mean,
        "image_std": std,
    }
    if size is not None:
        found["size"] = {"shortest_edge": size} if isinstance(size, int) else _sides(size)
    if crop is not None:
        found["crop_size"] = _sides(crop)
    return found


def _stored(folder: Path) -> tuple[Json | None, Path]:
    for name, inside in (("processor_config.json", "image_processor"), (FILE, None)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON: {error}; save the processor anew") from None
        raw = raw.get(inside) if inside and isinstance(raw, dict) else raw
        if raw is not None:
            if not isinstance(raw, dict):
                raise DataError(f"{path}: got {type(raw).__name__}, expected a JSON object")
            return raw, path
    return None, folder / FILE


def _kind(name: str | None, model_type: str, path: Path) -> str:
    if name is None:
        return _OF_MODELS.get(model_type, "ViT")
    kind = name
    for ending in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if kind not in _PROCESSORS:
        raise DataError(
            f"{path}: got the image processor {name!r}, expected one of "
            f"{[f'{known}ImageProcessor' for known in _PROCESSORS]}; save one of these that does "
            "the same"
        )
    return kind


def _read(values: Json, kind: str, path: str) -> Preprocessing:
    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    if values["do_resize"]:
        size = _size(values["size"], "size", path, shortest=bool(values.get("shortest")))
    if values["do_center_crop"]:
        wanted = _size(values["crop_size"], "crop_size", path, shortest=False)
        assert not isinstance(wanted, int)
        crop = wanted
    if kind == "ConvNext" and size is not None:
        if crop is not None or not isinstance(size, int):
            raise DataError(
                f"{path}: got size {values['size']} and do_center_crop {values['do_center_crop']}, "
                "expected a shortest_edge and no crop, as ConvNextImageProcessor has its own; use "
                "a ViTImageProcessor or a CLIPImageProcessor"
            )
        edge = size
        warped = edge >= _WARPED_FROM
        size = (edge, edge) if warped else int(edge / values["crop_pct"])
        crop = None if warped else (edge, edge)
    resample = values["resample"]
    if resample not in range(6):
        raise DataError(f"{path}: got resample {resample!r}, expected 0 to 5, as Pillow numbers it")
    normalizes = values["do_normalize"]
    return Preprocessing(
        size=size,
        crop=crop,
        resample=int(resample),
        scale=float(values["rescale_factor"]) if values["do_rescale"] else 1.0,
        mean=_numbers(values["image_mean"]) if normalizes else (0.0,),
        std=_numbers(values["image_std"]) if normalizes else (1.0,),
    )


def _size(value: Any, key: str, path: str, *, shortest: bool) -> tuple[int, int] | int:
    if isinstance(value, int | float):
        return int(value) if shortest else (int(value), int(value))
    if isinstance(value, list):
        return int(value[0]), int(value[1])
    sides = {side: length for side, length in value.items() if length is not None}
    if sides.keys() == {"height", "width"}:
        return int(sides["height"]), int(sides["width"])
    if sides.keys() == {"shortest_edge"} and key == "size":
        return int(sides["shortest_edge"])
    raise DataError(
        f"{path}: got {key} {value}, expected height and width"
        f"{', or shortest_edge alone' if key == 'size' else ''}; save the processor with such a one"
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, Sequence) else (float(values),)


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _spread(values: tuple[float, ...]) -> tuple[float, ...] | float:
    """Return a single number for the same one in every channel."""
    return values[0] if len(set(values)) == 1 else values


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return str(list(value) if isinstance(value, tuple) else value)
