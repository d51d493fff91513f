"""BERT and RoBERTa: one encoder that differs in its positions and heads."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.models.bodies.text_encoder import (
    Batch,
    TextModel,
    check_config,
    input_ids_of,
    positions_of,
    token_types_of,
)
from jaxdistill.models.family import Family, Options, own_or_first
from jaxdistill.models.hub.rules import Rule, embedding, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import Embedding, LayerNorm, dropout
from jaxdistill.models.layers.encoder_layer import EncoderLayer
from jaxdistill.models.layers.heads import ClassificationHead, MaskedLMHead, Pooler
from jaxdistill.models.positions import row_limit
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The fields of a BERT `config.json` that shape the model; `extra` is the whole file."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_config("bert", self, width=self.hidden_size, heads=self.num_attention_heads)
        activation(self.hidden_act)

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            heads=self.num_attention_heads,
            vocabulary=self.vocab_size,
            token_types=self.type_vocab_size,
            positions=self.max_position_embeddings,
        )

    @property
    def head_dropout(self) -> float:
        """Rate of the classification head."""
        own = self.classifier_dropout
        return self.hidden_dropout_prob if own is None else own


@dataclasses.dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The fields of a RoBERTa `config.json`; positions start at `pad_token_id + 1`."""

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return dataclasses.replace(super().sizes, positions=row_limit("roberta", vars(self)))


class Embeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, normalized."""

    def __init__(
        self, config: BertConfig, rngs: nnx.Rngs, *, offset: bool, dtype: DTypeLike
    ) -> None:
        width, stddev, pad = config.hidden_size, config.initializer_range, config.pad_token_id
        self.word = Embedding(
            config.vocab_size, width, rngs, axes=("vocab", "embed"), stddev=stddev, zero_row=pad
        )
        positions = config.max_position_embeddings
        zero = pad if offset else None
        self.position = Embedding(positions, width, rngs, stddev=stddev, zero_row=zero)
        self.token_type = Embedding(config.type_vocab_size, width, rngs, stddev=stddev)
        self.norm = LayerNorm(width, epsilon=config.layer_norm_eps, dtype=dtype)
        self.first = pad + 1 if offset else 0
        self.pad = pad
        self.limit = positions - self.first
        self.rate = config.hidden_dropout_prob

    def __call__(self, batch: Batch, rng: jax.Array | None) -> jax.Array:
        """Embed `input_ids` `[B, T]` as `[B, T, D]`; `position_ids` count from 0 in any family."""
        ids = input_ids_of(batch, self.limit)
        total = self.word(ids) + token_types_of(self.token_type, batch)
        if not self.first:
            total = total + positions_of(self.position, batch, ids.shape[1])
        elif "position_ids" in batch:
            total = total + self.position(batch["position_ids"] + self.first)
        else:
            valid = (ids != self.pad).astype(jnp.int32)
            total = total + self.position(jnp.cumsum(valid, axis=1) * valid + self.pad)
        return dropout(self.norm(total), self.rate, rng)


def _build(config: BertConfig, options: Options, rngs: nnx.Rngs, *, roberta: bool) -> TextModel:
    dtype, stddev, width = jnp.dtype(options.dtype), config.initializer_range, config.hidden_size
    layers = EncoderLayer(
        width,
        config.num_attention_heads,
        config.intermediate_size,
        rngs,
        act=config.hidden_act,
        epsilon=config.layer_norm_eps,
        rate=config.hidden_dropout_prob,
        attention_rate=config.attention_probs_dropout_prob,
        attention_output_rate=config.hidden_dropout_prob,
        stack=(config.num_hidden_layers,),
        stddev=stddev,
        dtype=dtype,
    )
    pooler = None
    if has_pooler(options, roberta=roberta):
        pooler = Pooler(width, width, rngs, axes=("embed", None), stddev=stddev, dtype=dtype)
    return TextModel(
        embeddings=Embeddings(config, rngs, offset=roberta, dtype=dtype),
        layers=layers,
        pooler=pooler,
        head=_head(config, options, rngs, roberta=roberta, dtype=dtype),
        depth=config.num_hidden_layers,
        options=options,
    )


def _head(
    config: BertConfig, options: Options, rngs: nnx.Rngs, *, roberta: bool, dtype: DTypeLike
) -> ClassificationHead | MaskedLMHead | None:
    width, stddev = config.hidden_size, config.initializer_range
    if options.head == "classification":
        return ClassificationHead(
            width,
            options.num_labels,
            rngs,
            rate=config.head_dropout,
            dense="tanh" if roberta else None,
            stddev=stddev,
            dtype=dtype,
        )
    if options.head == "masked_lm":
        return MaskedLMHead(
            width,
            config.vocab_size,
            rngs,
            act="gelu" if roberta else config.hidden_act,
            epsilon=config.layer_norm_eps,
            stddev=stddev,
            dtype=dtype,
        )
    return None


def has_pooler(options: Options, *, roberta: bool) -> bool:
    """Whether the model carries a pooler: RoBERTa's classification head replaces it."""
    if options.pooling != "default":
        return False
    if options.head == "classification":
        return not roberta
    return options.head is None and options.pooler


def _rules(config: BertConfig, options: Options, *, roberta: bool) -> list[Rule]:
    base = "roberta" if roberta else "bert"
    layer = f"{base}.encoder.layer.{{layer}}"
    rules = [
        *embedding("embeddings/word", f"{base}.embeddings.word_embeddings"),
        *embedding("embeddings/position", f"{base}.embeddings.position_embeddings"),
        *embedding("embeddings/token_type", f"{base}.embeddings.token_type_embeddings"),
        *norm("embeddings/norm", f"{base}.embeddings.LayerNorm"),
        *linear("layers/attention/query", f"{layer}.attention.self.query"),
        *linear("layers/attention/key", f"{layer}.attention.self.key"),
        *linear("layers/attention/value", f"{layer}.attention.self.value"),
        *linear("layers/attention/output", f"{layer}.attention.output.dense"),
        *norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *linear("layers/up", f"{layer}.intermediate.dense"),
        *linear("layers/down", f"{layer}.output.dense"),
        *norm("layers/output_norm", f"{layer}.output.LayerNorm"),
    ]
    if has_pooler(options, roberta=roberta):
        rules += linear("pooler", f"{base}.pooler.dense", group="pooler")
    if options.head == "classification" and roberta:
        rules += linear("head/dense", "classifier.dense", group="head")
        rules += linear("head/output", "classifier.out_proj", group="head")
    elif options.head == "classification":
        rules += linear("head/output", "classifier", group="head")
    elif options.head == "masked_lm":
        stem = "lm_head" if roberta else "cls.predictions"
        dense, normal = (
            ("lm_head.dense", "lm_head.layer_norm")
            if roberta
            else (f"{stem}.transform.dense", f"{stem}.transform.LayerNorm")
        )
        rules += linear("head/dense", dense, group="head")
        rules += norm("head/norm", normal, group="head")
        rules += [Rule("head/bias", f"{stem}.bias", group="head")]
    return rules


_RENAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

BERT = Family(
    name="bert",
    modality="text",
    paper="Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers",
    config=BertConfig,
    build=partial(_build, roberta=False),
    rules=partial(_rules, roberta=False),
    architectures={
        "classification": "BertForSequenceClassification",
        "masked_lm": "BertForMaskedLM",
        None: "BertModel",
    },
    prefix="bert",
    aliases={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
    head_tensors={"classification": r"classifier\..*", "masked_lm": r"cls\.predictions\..*"},
    renames=_RENAMES,
    poolings=("default", "first", "mean"),
)

ROBERTA = Family(
    name="roberta",
    modality="text",
    paper="Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach",
    config=RobertaConfig,
    build=partial(_build, roberta=True),
    rules=partial(_rules, roberta=True),
    architectures={
        "classification": "RobertaForSequenceClassification",
        "masked_lm": "RobertaForMaskedLM",
        None: "RobertaModel",
    },
    prefix="roberta",
    aliases={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=(r"roberta\.embeddings\.position_ids", r"roberta\.pooler\..*"),
    head_tensors={"classification": r"classifier\..*", "masked_lm": r"lm_head\..*"},
    renames=_RENAMES,
    poolings=("default", "first", "mean"),
    standard=own_or_first,
    head_activation="tanh",
)

# The same encoder, trained on 100 languages (Conneau et al. 2020).
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    name="xlm-roberta",
    paper="Conneau et al. 2020, Unsupervised Cross-lingual Representation Learning at Scale",
    architectures={head: f"XLM{name}" for head, name in ROBERTA.architectures.items()},
)

FAMILIES = (BERT, ROBERTA, XLM_ROBERTA)
