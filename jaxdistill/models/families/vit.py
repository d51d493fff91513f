"""Vision transformers: the architecture and weights of transformers' ViT."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError
from jaxdistill.models.bodies.text_encoder import check_taps, encode
from jaxdistill.models.family import Family, Options, own_or_first
from jaxdistill.models.hub.rules import Rule, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import (
    Attention,
    LayerNorm,
    Linear,
    Pool,
    dropout,
    parameter,
    split_rng,
)
from jaxdistill.models.layers.image_layers import Batch, Classifier, check_numbers, images_of
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

_MANY = float("inf")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The fields of a ViT `config.json` that shape the model; `extra` is the whole file.

    Images and patches are square.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = ("image_size", "patch_size", "num_channels")
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        check_numbers("vit", self, **dict.fromkeys((*counts, *sizes), (1, _MANY)))
        check_numbers("vit", self, **dict.fromkeys(rates, (0.0, 1.0)))
        for name, whole, part in (
            ("hidden_size", self.hidden_size, "num_attention_heads"),
            ("image_size", self.image_size, "patch_size"),
        ):
            if whole % getattr(self, part):
                raise ModelError(
                    f"vit.{name}: got {whole} with {part} {getattr(self, part)}, "
                    "expected a multiple of it"
                )
        activation(self.hidden_act)
        activation(self.pooler_act)

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            heads=self.num_attention_heads,
            image=(self.image_size, self.image_size),
            channels=self.num_channels,
        )

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class Embeddings(nnx.Module):
    """Projected patches behind a learned token, with learned positions (section 3.1)."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        width, stddev, size = config.hidden_size, config.initializer_range, config.patch_size

        def normal(*shape: int) -> jax.Array:
            return jax.random.normal(rngs.params(), shape, jnp.float32) * stddev

        kernel = normal(size, size, config.num_channels, width)
        self.kernel = parameter(kernel, (None, None, None, "embed"))
        self.bias = parameter(jnp.zeros((width,), jnp.float32), ("embed",))
        self.first = parameter(normal(1, 1, width), (None, None, "embed"))
        self.position = parameter(normal(1, config.patches + 1, width), (None, None, "embed"))
        self.rate = config.hidden_dropout_prob
        self.dtype = jnp.dtype(dtype)

    def __call__(self, images: jax.Array, rng: jax.Array | None) -> jax.Array:
        """Embed `[B, H, W, C]` as `[B, 1 + patches, D]`."""
        batch, height, width, channels = images.shape
        size = self.kernel.shape[0]
        rows, columns = height // size, width // size
        grid = images.reshape(batch, rows, size, columns, size, channels)
        patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        kernel = self.kernel[...].astype(self.dtype)
        flat = kernel.reshape(-1, kernel.shape[-1])  # [size * size * C, D]
        tokens = patches.astype(self.dtype) @ flat + self.bias[...].astype(self.dtype)[None, None]
        first = jnp.broadcast_to(self.first[...].astype(self.dtype), (batch, 1, flat.shape[1]))
        tokens = jnp.concatenate([first, tokens], axis=1)
        return dropout(tokens + self.position[...].astype(self.dtype), self.rate, rng)


class ViTLayer(nnx.Module):
    """A pre-norm transformer layer (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(
        self, config: ViTConfig, rngs: nnx.Rngs, *, stack: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        how: dict[str, Any] = {"stack": stack, "dtype": dtype}
        draw: dict[str, Any] = {**how, "stddev": config.initializer_range}
        self.attention_norm = LayerNorm(width, epsilon=config.layer_norm_eps, **how)
        self.attention = Attention(
            width,
            config.num_attention_heads,
            rngs,
            rate=config.attention_probs_dropout_prob,
            bias=config.qkv_bias,
            **draw,
        )
        self.output_norm = LayerNorm(width, epsilon=config.layer_norm_eps, **how)
        self.up = Linear(width, inner, rngs, axes=("embed", "mlp"), **draw)
        self.down = Linear(inner, width, rngs, axes=("mlp", "embed"), **draw)
        self.act = config.hidden_act
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        rng: jax.Array | None = None,
        pool: Pool | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Map `[B, T, D]` to `[B, T, D]` (`[B, 1, D]` with `pool`) and attention probabilities."""
        rngs = split_rng(rng, 3)
        mixed, probabilities = self.attention(self.attention_norm(hidden), mask, rngs[0], pool=pool)
        residual = hidden if pool is None else pool.tokens(hidden)
        hidden = residual + dropout(mixed, self.rate, rngs[1])
        inner = activation(self.act)(self.up(self.output_norm(hidden)))
        return hidden + dropout(self.down(inner), self.rate, rngs[2]), probabilities


class ViT(nnx.Module):
    """A vision transformer with a classification or no head."""

    def __init__(self, config: ViTConfig, options: Options, rngs: nnx.Rngs) -> None:
        width, stddev, dtype = config.hidden_size, config.initializer_range, options.dtype
        self.embeddings = Embeddings(config, rngs, dtype=dtype)
        self.layers = ViTLayer(config, rngs, stack=(config.num_hidden_layers,), dtype=dtype)
        self.norm = LayerNorm(width, epsilon=config.layer_norm_eps, dtype=dtype)
        self.pooler = (
            Linear(width, config.pooler_output_size or width, rngs, stddev=stddev, dtype=dtype)
            if _has_pooler(options)
            else None
        )
        self.head = (
            Classifier(width, options.num_labels, rngs, stddev=stddev)
            if options.head == "classification"
            else None
        )
        self.config = config
        self.options = options

    def __call__(
        self, batch: Batch, *, rng: jax.Array | None, train: bool, taps: Sequence[str]
    ) -> Outputs:
        """Run the model on `images` `[B, H, W, C]`; see `Outputs` for the shapes.

        `layers.{i}.hidden` are before the final normalization, as in transformers; `hidden` and
        `pooled` are after it. A classifier reads the first token, or with `pooling="mean"` the mean
        over patches.
        """
        config, options = self.config, self.options
        classify, mean = options.head == "classification", options.pooling == "mean"
        pooled = classify or self.pooler is not None or options.pooling != "default"
        check_taps(taps, config.num_hidden_layers, pooled=pooled)
        rngs = split_rng(rng if train else None, 2)
        images = images_of(batch, channels=config.num_channels, size=config.image_size)
        embedded = self.embeddings(images, rngs[0])
        hidden, features, _ = encode(
            self.layers,
            embedded,
            None,
            depth=config.num_hidden_layers,
            taps=taps,
            rng=rngs[1],
            options=options,
            pool=Pool() if classify and not mean else None,
        )
        if "embeddings" in taps:
            features["embeddings"] = embedded
        hidden = self.norm(hidden)
        vector = hidden[:, 0]
        if mean:
            vector = hidden[:, 1:].astype(jnp.float32).mean(1).astype(hidden.dtype)
        if self.pooler is not None:
            vector = activation(config.pooler_act)(self.pooler(vector))
        if "pooled" in taps:
            features["pooled"] = vector
        return (
            Outputs(hidden=hidden, features=features)
            if self.head is None
            else self.head(vector, features)
        )


def _has_pooler(options: Options) -> bool:
    """Whether the bare model carries the pooler, a dense layer on the first token."""
    return options.head is None and options.pooler and options.pooling == "default"


def _rules(config: ViTConfig, options: Options) -> list[Rule]:
    layer, first = "vit.encoder.layer.{layer}", "vit.embeddings"
    projection = f"{first}.patch_embeddings.projection"
    rules = [
        Rule("embeddings/kernel", f"{projection}.weight", (2, 3, 1, 0)),
        Rule("embeddings/bias", f"{projection}.bias"),
        Rule("embeddings/first", f"{first}.cls_token"),
        Rule("embeddings/position", f"{first}.position_embeddings"),
        *norm("layers/attention_norm", f"{layer}.layernorm_before"),
        *norm("layers/output_norm", f"{layer}.layernorm_after"),
        *linear("layers/attention/output", f"{layer}.attention.output.dense"),
        *linear("layers/up", f"{layer}.intermediate.dense"),
        *linear("layers/down", f"{layer}.output.dense"),
        *norm("norm", "vit.layernorm"),
    ]
    for part in ("query", "key", "value"):
        theirs = f"{layer}.attention.attention.{part}"
        rules += linear(f"layers/attention/{part}", theirs, bias=config.qkv_bias)
    if _has_pooler(options):
        rules += linear("pooler", "vit.pooler.dense", group="pooler")
    if options.head == "classification":
        rules += linear("head/output", "classifier", group="head")
    return rules


VIT = Family(
    name="vit",
    modality="image",
    paper="Dosovitskiy et al. 2021, An Image is Worth 16x16 Words",
    config=ViTConfig,
    build=ViT,
    rules=_rules,
    architectures={"classification": "ViTForImageClassification", None: "ViTModel"},
    prefix="vit",
    ignored=(r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"),
    head_tensors={"classification": r"classifier\..*"},
    poolings=("default", "first", "mean"),
    standard=own_or_first,
)

FAMILIES = (VIT,)
