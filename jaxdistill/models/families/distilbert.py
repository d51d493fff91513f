"""DistilBERT: BERT's layers without token types and pooler."""

from __future__ import annotations

import dataclasses

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
)
from jaxdistill.models.family import Family, Options, own_or_first
from jaxdistill.models.hub.rules import Rule, embedding, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import Embedding, LayerNorm, dropout
from jaxdistill.models.layers.encoder_layer import EncoderLayer
from jaxdistill.models.layers.heads import ClassificationHead, MaskedLMHead
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class DistilBertConfig:
    """The fields of a DistilBERT `config.json` that shape the model; `extra` is the whole file."""

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    seq_classif_dropout: float = 0.2
    pad_token_id: int = 0
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_config("distilbert", self, width=self.dim, heads=self.n_heads)
        activation(self.activation)

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.n_layers,
            width=self.dim,
            heads=self.n_heads,
            vocabulary=self.vocab_size,
            positions=self.max_position_embeddings,
        )

    @property
    def hidden_size(self) -> int:
        """Width, under the name it has in the other families."""
        return self.dim

    @property
    def num_hidden_layers(self) -> int:
        """Depth, under the name it has in the other families."""
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        """Attention heads, under the name they have in the other families."""
        return self.n_heads


class Embeddings(nnx.Module):
    """Sum of word and position embeddings, normalized."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        width, stddev = config.dim, config.initializer_range
        self.word = Embedding(
            config.vocab_size,
            width,
            rngs,
            axes=("vocab", "embed"),
            stddev=stddev,
            zero_row=config.pad_token_id,
        )
        self.position = Embedding(config.max_position_embeddings, width, rngs, stddev=stddev)
        self.norm = LayerNorm(width, epsilon=EPSILON, dtype=dtype)
        self.limit = config.max_position_embeddings
        self.rate = config.dropout

    def __call__(self, batch: Batch, rng: jax.Array | None) -> jax.Array:
        """Embed `input_ids` `[B, T]` as `[B, T, D]`."""
        ids = input_ids_of(batch, self.limit)
        total = self.word(ids) + positions_of(self.position, batch, ids.shape[1])
        return dropout(self.norm(total), self.rate, rng)


def _build(config: DistilBertConfig, options: Options, rngs: nnx.Rngs) -> TextModel:
    dtype, stddev, width = jnp.dtype(options.dtype), config.initializer_range, config.dim
    layers = EncoderLayer(
        width,
        config.n_heads,
        config.hidden_dim,
        rngs,
        act=config.activation,
        epsilon=EPSILON,
        rate=config.dropout,
        attention_rate=config.attention_dropout,
        attention_output_rate=0.0,
        stack=(config.n_layers,),
        stddev=stddev,
        dtype=dtype,
    )
    head = None
    if options.head == "classification":
        head = ClassificationHead(
            width,
            options.num_labels,
            rngs,
            rate=config.seq_classif_dropout,
            dense="relu",
            drop_input=False,
            stddev=stddev,
            dtype=dtype,
        )
    elif options.head == "masked_lm":
        head = MaskedLMHead(
            width,
            config.vocab_size,
            rngs,
            act=config.activation,
            epsilon=EPSILON,
            stddev=stddev,
            dtype=dtype,
        )
    return TextModel(
        embeddings=Embeddings(config, rngs, dtype=dtype),
        layers=layers,
        pooler=None,
        head=head,
        depth=config.n_layers,
        options=options,
    )


def _rules(config: DistilBertConfig, options: Options) -> list[Rule]:
    base = "distilbert.embeddings"
    layer = "distilbert.transformer.layer.{layer}"
    rules = [
        *embedding("embeddings/word", f"{base}.word_embeddings"),
        *embedding("embeddings/position", f"{base}.position_embeddings"),
        *norm("embeddings/norm", f"{base}.LayerNorm"),
        *linear("layers/attention/query", f"{layer}.attention.q_lin"),
        *linear("layers/attention/key", f"{layer}.attention.k_lin"),
        *linear("layers/attention/value", f"{layer}.attention.v_lin"),
        *linear("layers/attention/output", f"{layer}.attention.out_lin"),
        *norm("layers/attention_norm", f"{layer}.sa_layer_norm"),
        *linear("layers/up", f"{layer}.ffn.lin1"),
        *linear("layers/down", f"{layer}.ffn.lin2"),
        *norm("layers/output_norm", f"{layer}.output_layer_norm"),
    ]
    if options.head == "classification":
        rules += linear("head/dense", "pre_classifier", group="head")
        rules += linear("head/output", "classifier", group="head")
    elif options.head == "masked_lm":
        rules += linear("head/dense", "vocab_transform", group="head")
        rules += norm("head/norm", "vocab_layer_norm", group="head")
        rules += [Rule("head/bias", "vocab_projector.bias", group="head")]
    return rules


DISTILBERT = Family(
    name="distilbert",
    modality="text",
    paper="Sanh et al. 2019, DistilBERT, a distilled version of BERT: smaller, faster, cheaper",
    config=DistilBertConfig,
    build=_build,
    rules=_rules,
    architectures={
        "classification": "DistilBertForSequenceClassification",
        "masked_lm": "DistilBertForMaskedLM",
        None: "DistilBertModel",
    },
    prefix="distilbert",
    aliases={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=(r"distilbert\.embeddings\.position_ids",),
    head_tensors={
        "classification": r"(pre_)?classifier\..*",
        "masked_lm": r"vocab_(transform|layer_norm|projector)\..*",
    },
    field_aliases={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    poolings=("default", "first", "mean"),
    standard=own_or_first,
    head_activation="relu",
)

FAMILIES = (DISTILBERT,)
