"""MobileBERT: narrow trigram embeddings and thin layers between bottlenecks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.models.bodies.text_encoder import (
    Batch,
    TextModel,
    input_ids_of,
    positions_of,
    token_types_of,
)
from jaxdistill.models.families.bottleneck import (
    TORCH_EPSILON,
    MobileBertConfig,
    MobileLayer,
    normalization,
)
from jaxdistill.models.family import Family, Options, own_pooling
from jaxdistill.models.hub.rules import Rule, embedding, linear, norm
from jaxdistill.models.layers.basic import Embedding, Linear, dropout
from jaxdistill.models.layers.heads import ClassificationHead, MaskedLMHead, Pooler


class Embeddings(nnx.Module):
    """Narrow word embeddings, each token's with its neighbours', widened; positions and types."""

    def __init__(self, config: MobileBertConfig, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        width, narrow, stddev = config.hidden_size, config.embedding_size, config.initializer_range
        self.word = Embedding(
            config.vocab_size,
            narrow,
            rngs,
            axes=("vocab", "embed"),
            stddev=stddev,
            zero_row=config.pad_token_id,
        )
        self.widen = Linear(
            narrow * (3 if config.trigram_input else 1),
            width,
            rngs,
            axes=(None, "embed"),
            stddev=stddev,
            dtype=dtype,
        )
        self.position = Embedding(config.max_position_embeddings, width, rngs, stddev=stddev)
        self.token_type = Embedding(config.type_vocab_size, width, rngs, stddev=stddev)
        self.norm = normalization(config, width, epsilon=TORCH_EPSILON, stack=(), dtype=dtype)
        self.limit = config.max_position_embeddings
        self.trigram = config.trigram_input
        self.widens = config.trigram_input or narrow != width
        self.pad = config.pad_token_id
        self.rate = config.hidden_dropout_prob
        self.dtype = dtype

    def __call__(self, batch: Batch, rng: jax.Array | None) -> jax.Array:
        """Embed `input_ids` `[B, T]` as `[B, T, D]`.

        A token at the end of a packed example has no next one, as at the end of a row without
        padding; in a padded row the reference reads the padding's embedding, and so does this.
        """
        ids = input_ids_of(batch, self.limit)
        total = self.word(ids)
        if self.trigram:
            # Valid tokens read the padding beside them, and the reference never trains that row.
            padding = (ids == self.pad)[..., None]
            total = jnp.where(padding, lax.stop_gradient(total), total)
            after = jnp.pad(total[:, 1:], ((0, 0), (0, 1), (0, 0)))
            before = jnp.pad(total[:, :-1], ((0, 0), (1, 0), (0, 0)))
            if "segment_ids" in batch:
                segments = batch["segment_ids"]
                joined = (segments[:, 1:] == segments[:, :-1])[..., None]  # [B, T - 1, 1]
                after = after * jnp.pad(joined, ((0, 0), (0, 1), (0, 0)))
                before = before * jnp.pad(joined, ((0, 0), (1, 0), (0, 0)))
            total = jnp.concatenate([after, total, before], axis=-1)  # [B, T, 3 E]
        if self.widens:
            total = self.widen(total).astype(jnp.float32)
        total = total + positions_of(self.position, batch, ids.shape[1])
        total = total + token_types_of(self.token_type, batch)
        return dropout(self.norm(total).astype(self.dtype), self.rate, rng)


def _build(config: MobileBertConfig, options: Options, rngs: nnx.Rngs) -> TextModel:
    dtype, stddev, width = jnp.dtype(options.dtype), config.initializer_range, config.hidden_size
    pools = _pools(options)
    pooler, head = None, None
    if pools and config.classifier_activation:
        pooler = Pooler(width, width, rngs, axes=("embed", None), stddev=stddev, dtype=dtype)
    if options.head == "classification":
        rate = config.classifier_dropout
        head = ClassificationHead(
            width,
            options.num_labels,
            rngs,
            rate=config.hidden_dropout_prob if rate is None else rate,
            stddev=stddev,
        )
    elif options.head == "masked_lm":
        head = MaskedLMHead(
            width,
            config.vocab_size,
            rngs,
            act=config.hidden_act,
            epsilon=config.layer_norm_eps,
            embedding_width=config.embedding_size,
            stddev=stddev,
            dtype=dtype,
        )
    return TextModel(
        embeddings=Embeddings(config, rngs, dtype=dtype),
        layers=MobileLayer(config, rngs, dtype=dtype),
        pooler=pooler,
        head=head,
        depth=config.num_hidden_layers,
        options=options,
        pooled=pools,
    )


def _pools(options: Options) -> bool:
    if options.pooling != "default":
        return False
    return options.head == "classification" or (options.head is None and options.pooler)


def _rules(config: MobileBertConfig, options: Options) -> list[Rule]:
    base, layer = "mobilebert.embeddings", "mobilebert.encoder.layer.{layer}"

    def project(ours: str, theirs: str) -> list[Rule]:
        return [
            *linear(f"layers/{ours}/dense", f"{layer}.{theirs}.dense"),
            *norm(f"layers/{ours}/norm", f"{layer}.{theirs}.LayerNorm"),
        ]

    def feed_forward(ours: str, theirs: str) -> list[Rule]:
        return [
            *linear(f"layers/{ours}/up", f"{theirs}.intermediate.dense"),
            *linear(f"layers/{ours}/down", f"{theirs}.output.dense"),
            *norm(f"layers/{ours}/norm", f"{theirs}.output.LayerNorm"),
        ]

    rules = [
        *embedding("embeddings/word", f"{base}.word_embeddings"),
        *embedding("embeddings/position", f"{base}.position_embeddings"),
        *embedding("embeddings/token_type", f"{base}.token_type_embeddings"),
        *linear("embeddings/widen", f"{base}.embedding_transformation"),
        *norm("embeddings/norm", f"{base}.LayerNorm"),
        *linear("layers/attention/query", f"{layer}.attention.self.query"),
        *linear("layers/attention/key", f"{layer}.attention.self.key"),
        *linear("layers/attention/value", f"{layer}.attention.self.value"),
        *linear("layers/attention/output", f"{layer}.attention.output.dense"),
        *norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *feed_forward("final", layer),
    ]
    if config.use_bottleneck:
        rules += project("enter", "bottleneck.input") + project("leave", "output.bottleneck")
        if config.key_query_shared_bottleneck:
            rules += project("enter_attention", "bottleneck.attention")
    if config.num_feedforward_networks > 1:
        rules += feed_forward("ffn", f"{layer}.ffn.{{network}}")
    if _pools(options) and config.classifier_activation:
        rules += linear("pooler", "mobilebert.pooler.dense", group="pooler")
    if options.head == "classification":
        rules += linear("head/output", "classifier", group="head")
    elif options.head == "masked_lm":
        stem = "cls.predictions"
        rules += linear("head/dense", f"{stem}.transform.dense", group="head")
        rules += norm("head/norm", f"{stem}.transform.LayerNorm", group="head")
        rules += [
            Rule("head/bias", f"{stem}.bias", group="head"),
            Rule("head/rest", f"{stem}.dense.weight", group="head"),
        ]
    return rules


def _standard(config: MobileBertConfig, options: Options) -> MobileBertConfig | None:
    if options.pooling == "first" and options.head == "classification":
        return dataclasses.replace(config, classifier_activation=False)
    return own_pooling(config, options)


MOBILEBERT = Family(
    name="mobilebert",
    modality="text",
    paper="Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices",
    config=MobileBertConfig,
    build=_build,
    rules=_rules,
    architectures={
        "classification": "MobileBertForSequenceClassification",
        "masked_lm": "MobileBertForMaskedLM",
        None: "MobileBertModel",
    },
    prefix="mobilebert",
    aliases={
        "cls.predictions.decoder.weight": "mobilebert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(
        r"mobilebert\.embeddings\.position_ids",
        r"mobilebert\.pooler\..*",
        r"cls\.seq_relationship\..*",
    ),
    head_tensors={"classification": r"classifier\..*", "masked_lm": r"cls\.predictions\..*"},
    poolings=("default", "first", "mean"),
    standard=_standard,
)

FAMILIES = (MOBILEBERT,)
