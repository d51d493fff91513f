"""Texts, or pairs of texts, as tokens."""

from __future__ import annotations

from jaxdistill.modalities.modality import Field, Modality

MODALITY = Modality(
    name="text",
    plural="texts",
    fields={
        "input_ids": Field("int32", ("length",)),
        "attention_mask": Field("int32", ("length",), fill=1),
        "token_type_ids": Field("int32", ("length",)),
    },
    read="jaxdistill.data.inputs.tokens:read_tokens",
    named="jaxdistill.data.reading.columns:named_texts",
    usual="jaxdistill.data.reading.columns:usual_texts",
    column_keys=("text", "text_pair"),
    data_keys=("max_length", "tokenizer", "layout", "buckets", "tokens_per_batch"),
    tokenized=True,
    sizes_of_config="jaxdistill.distill.model_sizes:types_of_config",
    sizes_of_model="jaxdistill.planning.batches:token_sizes",
    model_sizes="jaxdistill.distill.model_sizes:of_texts",
    checks=(
        "jaxdistill.doctor.checks_text:tokenizers",
        "jaxdistill.doctor.checks_text:vocabulary",
        "jaxdistill.doctor.checks_text:lengths",
        "jaxdistill.doctor.checks_text:token_types",
        "jaxdistill.doctor.checks_encoder:folder_settings",
    ),
)
