"""Documents of a language model, in full rows."""

from __future__ import annotations

from jaxdistill.modalities.modality import Field, Modality

MODALITY = Modality(
    name="documents",
    plural="documents",
    fields={
        "input_ids": Field("int32", ("length",)),
        "attention_mask": Field("int32", ("length",), fill=1),
        "segment_ids": Field("int32", ("length",), fill=1),
        "position_ids": Field("int32", ("length",)),
    },
    read="jaxdistill.data.text.packed_dataset:read_rows",
    column_keys=("text", "messages", "prompt", "completion"),
    data_keys=("max_length", "tokenizer", "tokens_per_batch"),
    read_as=("text",),
    tokenized=True,
    sizes_of_config="jaxdistill.distill.model_sizes:rows_of_config",
    sizes_of_model="jaxdistill.planning.batches:token_sizes",
    model_sizes="jaxdistill.distill.model_sizes:of_documents",
    checks=(
        "jaxdistill.doctor.checks_text:tokenizers",
        "jaxdistill.doctor.checks_text:vocabulary",
        "jaxdistill.doctor.checks_text:lengths",
    ),
)
