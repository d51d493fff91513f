"""Images of one size."""

from __future__ import annotations

from jaxdistill.modalities.modality import Field, Modality

_PIXELS = ("image_size", "image_mean", "image_std", "image_max", "shift")

MODALITY = Modality(
    name="image",
    plural="images",
    fields={"images": Field("float32", ("height", "width", "channels"))},
    read="jaxdistill.data.inputs.images:read_images",
    named="jaxdistill.data.reading.columns:named_image",
    usual="jaxdistill.data.reading.columns:usual_image",
    column_keys=("image",),
    data_keys=_PIXELS,
    refused_keys=_PIXELS,
    altering_keys=("shift",),
    read_as=("features",),  # a perceptron takes the pixels
    sizes_of_config="jaxdistill.distill.preprocessing:sizes_of_config",
    sizes_of_model="jaxdistill.planning.batches:image_sizes",
    model_sizes="jaxdistill.distill.model_sizes:of_images",
    checks=("jaxdistill.doctor.checks_images:shapes",),
)
