"""Which preprocessing the images of a run get: that of the folders, where they and `data` agree."""

from __future__ import annotations

import json
from pathlib import Path

from jaxdistill.config.schema import Config
from jaxdistill.config.sources import sources
from jaxdistill.data.reading.preprocessing import (
    FILE,
    Preprocessing,
    differences,
    overridden,
    read_preprocessing,
    with_options,
)
from jaxdistill.data.reading.table import Remark
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.modalities.registry import modality_named, reads
from jaxdistill.models.family import Family
from jaxdistill.models.registry import family_named
from jaxdistill.types import Json

_PIXELS = ("scale", "mean", "std")
_AXES = ("height", "width", "channels")


def preprocessing_of(config: Config) -> tuple[Preprocessing | None, tuple[Remark, ...]]:
    """Return the preprocessing of the teacher's folder, else of the student's, and remarks.

    Raises:
      ConfigError: two folders normalize pixels differently and `data` does not choose one,
        or `data` contradicts how a teacher that is taken as it is normalizes them.
      DataError: a folder's image processor asks for what is not supported.
    """
    found, remarks = _found(config), []
    silent = config.data.image_mean is None and config.data.image_std is None
    for side in ("teacher", "student"):
        if silent and side not in found and _is_pretrained(getattr(config, side).model):
            told = (
                f"the folder of {side}.model has no image processor ({FILE}), so pixels of 0 to 1 "
                "are not normalized for it; if it was trained on normalized ones, put the file "
                "there or set data.image_mean and data.image_std"
            )
            remarks.append(Remark("preprocessing", told))
    for side, own in found.items():
        contradicted = overridden(own, config.data)
        if not contradicted:
            continue
        told = f"{', '.join(contradicted)} of the image processor of {side}.model"
        normalizes = any("image_size" not in option for option in contradicted)
        if side == "teacher" and config.finetune is None and normalizes:
            raise ConfigError(
                f"data: got {told}, but the teacher is taken as it is (finetune: null) and sees "
                "other images than it was trained on; drop them, or let finetune train it"
            )
        remarks.append(Remark("preprocessing", f"{told}: the {side} was trained on other images"))
    if len(found) == 2:
        pair = [with_options(own, config.data) for own in found.values()]
        apart = differences(*pair)
        if any(told.split(" ")[0] in _PIXELS for told in apart):
            mean, std = (list(values) for values in (pair[0].mean, pair[0].std))
            way = f"choose, for the teacher's, data.image_mean={mean} data.image_std={std}"
            if pair[0].scale != pair[1].scale:
                way = f"give both the same rescale_factor in {FILE}"
            raise ConfigError(
                "data: the image processors of teacher.model and student.model differ "
                f"({', '.join(apart)}), but images are read once for both; {way}"
            )
        if apart:
            told = (
                "the image processors of teacher.model and student.model differ "
                f"({', '.join(apart)}); both see images as the teacher's makes them"
            )
            remarks.append(Remark("preprocessing", told))
    chosen = next(iter(found.values()), None)
    return chosen, tuple(remarks)


def channels_of(config: Config) -> int | None:
    """Return the channels that the models read, or None where no model states them.

    Raises:
      ConfigError: teacher and student read different ones.
    """
    stated = {}
    for side in ("teacher", "student"):
        origin = getattr(config, side).model
        raw = _config_of(Path(origin)) if isinstance(origin, str) else origin
        family = None if raw is None else _image_family(raw.get("model_type", raw.get("family")))
        if raw is None or family is None or not hasattr(family.config, "num_channels"):
            continue
        # What a folder leaves out is the default; what a mapping leaves out comes from the data.
        default = family.config.num_channels if isinstance(origin, str) else None
        channels = raw.get("num_channels", default)
        if isinstance(channels, int):
            stated[side] = channels
    if len(set(stated.values())) > 1:
        raise ConfigError(
            f"student.model: got num_channels {stated['student']}, expected {stated['teacher']} as "
            "of the teacher, since images are read once for both"
        )
    return next(iter(stated.values()), None)


def sizes_of_config(config: Config) -> dict[str, int]:
    """Return the sizes that images are brought to, none where `data.image_size` is not given."""
    source, size = sources().get(config.data.source), config.data.image_size
    if size is None:
        return {}
    height, width = (size, size) if isinstance(size, int) else size
    channels = channels_of(config) or (3 if source is None else source.sizes.get("channels", 3))
    return dict(zip(_AXES, (height, width, channels), strict=True))


def _found(config: Config) -> dict[str, Preprocessing]:
    found = {}
    for side in ("teacher", "student"):
        origin = getattr(config, side).model
        raw = _config_of(Path(origin)) if isinstance(origin, str) else None
        if raw is not None and _image_family(raw.get("model_type")) is not None:
            own = read_preprocessing(Path(origin), raw["model_type"])
            if own is not None:
                found[side] = own
    return found


def _is_pretrained(origin: object) -> bool:
    raw = _config_of(Path(origin)) if isinstance(origin, str) else None
    family = None if raw is None else _image_family(raw.get("model_type"))
    return family is not None and "images" in modality_named(family.modality).fields


def _config_of(folder: Path) -> Json | None:
    """Return a folder's config; what is wrong with one, reading the model says."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _image_family(name: object) -> Family | None:
    try:
        family = family_named(name) if isinstance(name, str) else None
    except ModelError:
        return None
    # A perceptron takes the pixels of an image as features.
    return family if family is not None and reads(family.modality, "image") else None
