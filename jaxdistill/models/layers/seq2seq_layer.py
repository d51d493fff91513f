"""Stacks of an encoder-decoder: attention with relative positions, to oneself and to the text read.

The modules hold no state but their parameters; who runs the layers says what a query may see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.models.family import Options
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.attention import Mix, attend_causally
from jaxdistill.models.layers.basic import Axes, Linear, dropout, run_layers, split_rng
from jaxdistill.models.layers.decoder_layer import RMSNorm
from jaxdistill.models.layers.relative_bias import RelativeBias
from jaxdistill.types import Tree

Memory = tuple[jax.Array, jax.Array]  # keys and values, each [B, S, H, d]


@dataclasses.dataclass(frozen=True)
class TwoStacks:
    """What an encoder-decoder is made of.

    Attributes:
      width, heads, head_width, inner, vocabulary: sizes of both stacks.
      encoder_depth, decoder_depth: numbers of layers.
      act: activation of the feed-forward layer.
      gated: whether a gate multiplies the inner layer (Shazeer 2020).
      epsilon: epsilon of the normalizations.
      rate: dropout rate.
      buckets, longest: number of buckets of relative positions, and the distance from which all
        share one.
      tied: whether the logits are taken with the word table.
      head_scale: factor on the logits.
      start_id, pad_id: the token that every target starts with, and the one for ignored labels.
      factor: factor on the standard deviations of the initial parameters.
    """

    width: int
    heads: int
    head_width: int
    inner: int
    vocabulary: int
    encoder_depth: int
    decoder_depth: int
    act: str
    gated: bool
    epsilon: float
    rate: float
    buckets: int
    longest: int
    tied: bool
    head_scale: float
    start_id: int
    pad_id: int
    factor: float


def dense_of(
    shape: TwoStacks, rngs: nnx.Rngs, *, stack: tuple[int, ...], dtype: DTypeLike
) -> Callable[..., Linear]:
    """Return what makes a projection without bias: `(inputs, outputs, axes, start=1.0)`.

    Its kernel starts with the deviation `shape.factor * start / sqrt(inputs)`.
    """

    def dense(inputs: int, outputs: int, axes: Axes, start: float = 1.0) -> Linear:
        stddev = shape.factor * start * inputs**-0.5
        options = {"axes": axes, "stack": stack, "stddev": stddev, "dtype": dtype}
        return Linear(inputs, outputs, rngs, bias=False, **options)

    return dense


class HeadAttention(nnx.Module):
    """Projections to queries, and of the same or another text, to keys and values."""

    def __init__(
        self, shape: TwoStacks, rngs: nnx.Rngs, *, stack: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        inner = shape.heads * shape.head_width

        dense = dense_of(shape, rngs, stack=stack, dtype=dtype)
        inward = ("embed", "heads")
        # Scores are not divided by the square root of the width: the start of queries does it.
        self.query = dense(shape.width, inner, inward, shape.head_width**-0.5)
        self.key = dense(shape.width, inner, inward)
        self.value = dense(shape.width, inner, inward)
        self.output = dense(inner, shape.width, ("heads", "embed"))
        self.heads = shape.heads

    def memory(self, context: jax.Array) -> Memory:
        """Return keys and values of `[B, S, D]`."""
        return self._split(self.key(context)), self._split(self.value(context))

    def __call__(
        self, x: jax.Array, memory: Memory, mix: Mix, rng: jax.Array | None
    ) -> tuple[jax.Array, Tree]:
        """Mix the memory for `[B, T, D]`; also returns what `mix` emits."""
        mixed, emitted = mix(self._split(self.query(x)), *memory, rng)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), emitted

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class StackLayer(nnx.Module):
    """Attention, in a decoder attention to the encoder, too, and a feed-forward network.

    Each is computed on a normalized input and added to it.
    """

    def __init__(
        self,
        shape: TwoStacks,
        rngs: nnx.Rngs,
        *,
        cross: bool,
        stack: tuple[int, ...],
        dtype: DTypeLike,
    ) -> None:
        def norm() -> RMSNorm:
            return RMSNorm(shape.width, epsilon=shape.epsilon, stack=stack, dtype=dtype)

        def attention() -> HeadAttention:
            return HeadAttention(shape, rngs, stack=stack, dtype=dtype)

        self.attention_norm, self.attention = norm(), attention()
        self.cross_norm = norm() if cross else None
        self.cross_attention = attention() if cross else None
        self.mlp_norm = norm()
        dense, inward = dense_of(shape, rngs, stack=stack, dtype=dtype), ("embed", "mlp")
        self.gate = dense(shape.width, shape.inner, inward) if shape.gated else None
        self.up = dense(shape.width, shape.inner, inward)
        self.down = dense(shape.inner, shape.width, ("mlp", "embed"))
        self.act = shape.act
        self.rate = shape.rate

    def __call__(
        self,
        hidden: jax.Array,
        mix: Mix,
        cross_mix: Mix | None = None,
        *,
        encoded: jax.Array | None = None,
        memory: Memory | None = None,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Map `[B, T, D]` to `[B, T, D]`; also returns what both mixes emit.

        Args:
          encoded: what the encoder made, `[B, S, D]`, or `memory`, its keys and values here.
        """
        rngs = split_rng(rng, 6)
        x, crossed = self.attention_norm(hidden), None
        mixed, emitted = self.attention(x, self.attention.memory(x), mix, rngs[0])
        hidden = hidden + dropout(mixed, self.rate, rngs[1])
        if self.cross_norm is not None and self.cross_attention is not None and cross_mix:
            if memory is None:
                assert encoded is not None
                memory = self.cross_attention.memory(encoded)
            x = self.cross_norm(hidden)
            mixed, crossed = self.cross_attention(x, memory, cross_mix, rngs[2])
            hidden = hidden + dropout(mixed, self.rate, rngs[3])
        x = self.mlp_norm(hidden)
        act = activation(self.act)
        inner = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        outer = self.down(dropout(inner, self.rate, rngs[4]))
        return hidden + dropout(outer, self.rate, rngs[5]), emitted, crossed


class Stack(nnx.Module):
    """Stacked layers, the bias of their relative positions, and a last normalization."""

    def __init__(
        self,
        shape: TwoStacks,
        rngs: nnx.Rngs,
        *,
        depth: int,
        decoder: bool,
        dtype: DTypeLike,
    ) -> None:
        self.layers = StackLayer(shape, rngs, cross=decoder, stack=(depth,), dtype=dtype)
        self.position = RelativeBias(
            shape.heads,
            rngs,
            count=shape.buckets,
            longest=shape.longest,
            bidirectional=not decoder,
            stddev=shape.factor * shape.width**-0.5,
        )
        self.norm = RMSNorm(shape.width, epsilon=shape.epsilon, dtype=dtype)
        self.depth = depth
        self.rate = shape.rate

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array,
        *,
        options: Options,
        taps: Sequence[str],
        rng: jax.Array | None,
        encoded: jax.Array | None = None,
        cross_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Run the layers on `[B, T, D]` and collect the taps.

        Args:
          mask: boolean `[B, 1, T, T]`, what each token sees of its text.
          taps: some of `embeddings`, `hidden` (after the last normalization), and of
            `layers.{i}.hidden`, `.attention` and `.cross_attention`.
          encoded: `[B, S, D]`, in a decoder.
          cross_mask: boolean `[B, 1, T, S]`, what each token sees of the encoded text.
        """
        kinds = ("hidden", "attention", "cross_attention")
        emit = {kind: any(name.endswith(f".{kind}") for name in taps) for kind in kinds}
        rngs = split_rng(rng, 3)
        bias = self.position(hidden.shape[1], hidden.shape[1])

        def mixing(allowed: jax.Array, bias: jax.Array | None, emit: bool) -> Mix:
            def mix(
                query: jax.Array, key: jax.Array, value: jax.Array, rng: jax.Array | None
            ) -> tuple[jax.Array, Tree]:
                return attend_causally(
                    query,
                    key,
                    value,
                    allowed,
                    scale=1.0,
                    bias=bias,
                    rate=self.rate,
                    rng=rng,
                    emit=emit,
                )

            return mix

        own = mixing(mask, bias, emit["attention"])
        cross = None if cross_mask is None else mixing(cross_mask, None, emit["cross_attention"])

        def step(
            layer: StackLayer, hidden: jax.Array, rng: jax.Array | None
        ) -> tuple[jax.Array, Tree]:
            hidden, seen, crossed = layer(hidden, own, cross, encoded=encoded, rng=rng)
            return hidden, (hidden if emit["hidden"] else None, seen, crossed)

        features = {"embeddings": hidden} if "embeddings" in taps else {}
        hidden, emitted, _ = run_layers(
            self.layers,
            step,
            dropout(hidden, self.rate, rngs[0]),
            depth=self.depth,
            rng=rngs[1],
            unroll=options.unroll,
            remat=options.remat,
        )
        hidden = dropout(self.norm(hidden), self.rate, rngs[2])
        for i in range(self.depth):
            for kind, values in zip(kinds, emitted, strict=True):
                if f"layers.{i}.{kind}" in taps:
                    features[f"layers.{i}.{kind}"] = values[i]
        # As in transformers, the last layer's hidden state is taken after the normalization.
        for name in ("hidden", f"layers.{self.depth - 1}.hidden"):
            if name in taps:
                features[name] = hidden
        return hidden, features
