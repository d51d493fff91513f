"""Vectors of numbers."""

from __future__ import annotations

from jaxdistill.modalities.modality import Field, Modality

MODALITY = Modality(
    name="features",
    plural="features",
    fields={"features": Field("float32", ("features",))},
    read="jaxdistill.data.inputs.features:read_features",
    named="jaxdistill.data.reading.columns:feature_columns",
    sizes_of_model="jaxdistill.planning.batches:feature_sizes",
    model_sizes="jaxdistill.distill.model_sizes:of_features",
)
