"""Checks of images: whether the models read what the data holds."""

from __future__ import annotations

from jaxdistill.data.inputs.shapes import sizes_of
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.modalities.registry import modality_named

_OF_TRANSFORMERS = ("vit", "resnet")


def shapes(examined: Examined) -> Check:
    """Check that models read images of the size and the channels that the data has."""
    sizes = sizes_of(modality_named(examined.dataset.modality), examined.dataset.train.inputs)
    height, width, channels = (sizes[name] for name in ("height", "width", "channels"))
    healthy = True
    for name, model in examined.models.items():
        wanted = model.sizes.channels
        if wanted is not None and wanted != channels:
            healthy = False
            yield Finding(
                "fatal",
                "image shape",
                f"the {name} reads {wanted} channels, the images have {channels}; leave "
                f"num_channels out of its mapping, or convert the images",
            )
        sides = model.sizes.image
        if sides is not None and sides != (height, width):
            healthy = False
            shown = sides[0] if sides[0] == sides[1] else list(sides)
            yield Finding(
                "fatal",
                "image shape",
                f"the {name} reads {sides[0]} x {sides[1]} pixels (height x width), the images "
                f"have {height} x {width}; set data.image_size={shown}",
            )
        if channels == 1 and model.family in _OF_TRANSFORMERS:
            healthy = False
            yield Finding(
                "warning",
                "image shape",
                f"the {name} reads grey images of one channel, but transformers' pipelines make "
                "every image RGB and stop at one; give num_channels: 3 in its mapping for grey to "
                "be repeated, or open the export with AutoImageProcessor and grey images",
            )
    if healthy:
        message = f"models read {height} x {width} pixels of {channels} channels"
        yield Finding("ok", "image shape", message)
