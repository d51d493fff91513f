"""MobileBERT's sizes, and its layer: thin, between bottlenecks, with several feed-forwards."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError
from jaxdistill.models.bodies.text_encoder import check_config
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import (
    Attention,
    LayerNorm,
    Linear,
    Pool,
    along_last,
    dropout,
    parameter,
    run_layers,
    split_rng,
)
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

TORCH_EPSILON = 1e-5  # where the reference implementation does not pass the config's own


@dataclasses.dataclass(frozen=True)
class MobileBertConfig:
    """The fields of a MobileBERT `config.json` that shape the model; `extra` is the whole file."""

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    embedding_size: int = 128
    trigram_input: bool = True
    use_bottleneck: bool = True
    intra_bottleneck_size: int = 128
    use_bottleneck_attention: bool = False
    key_query_shared_bottleneck: bool = True
    num_feedforward_networks: int = 4
    normalization_type: str = "no_norm"
    classifier_activation: bool = True
    classifier_dropout: float | None = None
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_config("mobilebert", self, width=self.inner_width, heads=self.num_attention_heads)
        activation(self.hidden_act)
        if self.normalization_type not in ("no_norm", "layer_norm"):
            raise ModelError(
                f"mobilebert.normalization_type: got {self.normalization_type!r}, expected "
                "'no_norm' or 'layer_norm'"
            )
        shared = self.use_bottleneck_attention or self.key_query_shared_bottleneck
        if self.use_bottleneck and not shared:
            raise ModelError(
                "mobilebert: got a bottleneck that neither use_bottleneck_attention nor "
                "key_query_shared_bottleneck gives to queries and keys; set one of them"
            )

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            heads=self.num_attention_heads,
            head_width=self.inner_width // self.num_attention_heads,
            vocabulary=self.vocab_size,
            token_types=self.type_vocab_size,
            positions=self.max_position_embeddings,
        )

    @property
    def inner_width(self) -> int:
        """Width between the bottlenecks."""
        return self.intra_bottleneck_size if self.use_bottleneck else self.hidden_size


class Affine(nnx.Module):
    """`y = x * scale + bias`: what MobileBERT has in place of a normalization (section 3.3)."""

    def __init__(self, width: int, *, stack: tuple[int, ...] = ()) -> None:
        self.scale = parameter(jnp.ones((*stack, width), jnp.float32), ("embed",), stack)
        self.bias = parameter(jnp.zeros((*stack, width), jnp.float32), ("embed",), stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale and shift `[..., D]` in its dtype."""
        scale, bias = (along_last(p[...].astype(x.dtype), x.ndim) for p in (self.scale, self.bias))
        return x * scale + bias


def normalization(
    config: MobileBertConfig,
    width: int,
    *,
    epsilon: float,
    stack: tuple[int, ...],
    dtype: DTypeLike,
) -> Affine | LayerNorm:
    if config.normalization_type == "no_norm":
        return Affine(width, stack=stack)
    return LayerNorm(width, epsilon=epsilon, stack=stack, dtype=dtype)


class Projection(nnx.Module):
    """A dense layer, then the normalization of its sum with a residual."""

    def __init__(
        self,
        config: MobileBertConfig,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        *,
        stack: tuple[int, ...],
        dtype: DTypeLike,
        epsilon: float | None = None,
    ) -> None:
        axes = ("embed", None) if inputs == config.hidden_size else (None, "embed")
        stddev = config.initializer_range
        self.dense = Linear(
            inputs, outputs, rngs, axes=axes, stack=stack, stddev=stddev, dtype=dtype
        )
        epsilon = config.layer_norm_eps if epsilon is None else epsilon
        self.norm = normalization(config, outputs, epsilon=epsilon, stack=stack, dtype=dtype)

    def __call__(
        self,
        x: jax.Array,
        residual: jax.Array | None = None,
        rate: float = 0.0,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Map `[..., in]` to `[..., out]`."""
        y = dropout(self.dense(x), rate, rng)
        return self.norm(y if residual is None else y + residual)


class FeedForward(nnx.Module):
    """Up, activation, down, and the normalization of the sum with the input."""

    def __init__(
        self,
        config: MobileBertConfig,
        rngs: nnx.Rngs,
        *,
        stack: tuple[int, ...],
        dtype: DTypeLike,
        epsilon: float,
    ) -> None:
        width, inner, stddev = (
            config.inner_width,
            config.intermediate_size,
            config.initializer_range,
        )
        self.up = Linear(
            width, inner, rngs, axes=("embed", "mlp"), stack=stack, stddev=stddev, dtype=dtype
        )
        self.down = Linear(
            inner, width, rngs, axes=("mlp", "embed"), stack=stack, stddev=stddev, dtype=dtype
        )
        self.norm = normalization(config, width, epsilon=epsilon, stack=stack, dtype=dtype)
        self.act = config.hidden_act

    def __call__(self, x: jax.Array, rate: float = 0.0, rng: jax.Array | None = None) -> jax.Array:
        """Map `[..., D]` to `[..., D]`."""
        return self.norm(dropout(self.down(activation(self.act)(self.up(x))), rate, rng) + x)


class MobileLayer(nnx.Module):
    """One MobileBERT layer (Sun et al. 2020, figure 1c)."""

    def __init__(self, config: MobileBertConfig, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        stack, width, inner = (config.num_hidden_layers,), config.hidden_size, config.inner_width
        more = config.num_feedforward_networks - 1
        bottleneck = config.use_bottleneck

        def project(inputs: int, outputs: int, epsilon: float | None = None) -> Projection:
            return Projection(
                config, inputs, outputs, rngs, stack=stack, dtype=dtype, epsilon=epsilon
            )

        self.enter = project(width, inner) if bottleneck else None
        shared = bottleneck and config.key_query_shared_bottleneck
        self.enter_attention = project(width, inner) if shared else None
        self.attention = Attention(
            inner,
            config.num_attention_heads,
            rngs,
            value_width=inner if config.use_bottleneck_attention else width,
            rate=config.attention_probs_dropout_prob,
            stack=stack,
            stddev=config.initializer_range,
            dtype=dtype,
        )
        epsilon = config.layer_norm_eps
        self.attention_norm = normalization(
            config, inner, epsilon=epsilon, stack=stack, dtype=dtype
        )
        self.ffn = (
            FeedForward(config, rngs, stack=(*stack, more), dtype=dtype, epsilon=epsilon)
            if more
            else None
        )
        self.final = FeedForward(config, rngs, stack=stack, dtype=dtype, epsilon=TORCH_EPSILON)
        self.leave = project(inner, width) if bottleneck else None
        self.more = more
        self.narrow_attention = config.use_bottleneck_attention
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        rng: jax.Array | None = None,
        pool: Pool | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Map `[B, T, D]` to `[B, T, D]` (`[N, 1, D]` with `pool`) and attention probabilities."""
        rngs = split_rng(rng, 3)
        inner = hidden if self.enter is None else self.enter(hidden)
        queries, values = hidden, hidden
        if self.narrow_attention:
            queries, values = inner, inner
        elif self.enter_attention is not None:
            queries = self.enter_attention(hidden)
        mixed, probabilities = self.attention(queries, mask, rngs[0], pool=pool, value_from=values)
        if pool is not None:
            inner, hidden = pool.tokens(inner), pool.tokens(hidden)
        rate = 0.0 if self.leave is not None else self.rate
        inner = self.attention_norm(dropout(mixed, rate, rngs[1]) + inner)
        if self.ffn is not None:
            inner, _, _ = run_layers(
                self.ffn, lambda ffn, x, _: (ffn(x), None), inner, depth=self.more, unroll=self.more
            )
        inner = self.final(inner, rate, rngs[2])
        if self.leave is None:
            return inner, probabilities
        return self.leave(inner, hidden, self.rate, rngs[2]), probabilities
