"""The pre-norm decoder layer, and the shape that tells one family's from another's."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.attention import Mix
from jaxdistill.models.layers.basic import (
    Axes,
    LayerNorm,
    Linear,
    along_last,
    dropout,
    parameter,
    split_rng,
)
from jaxdistill.models.layers.rotary import Rotation, rotate
from jaxdistill.parallel.sharding import gather
from jaxdistill.types import Tree


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a decoder is made of; the families differ in nothing else.

    Attributes:
      width, depth, heads, inner, vocabulary: sizes.
      key_heads: heads of keys and values, which `heads` is a multiple of.
      head_width: width of one head.
      act: activation of the feed-forward layer.
      epsilon: epsilon of the normalizations.
      norm: `layer`; `rms`; or `rms_offset`, which scales by one plus its parameter.
      gated: whether a gate multiplies the inner layer (Shazeer 2020).
      head_norm: whether queries and keys are normalized per head.
      post_norms: whether each block's output is normalized, too, before it is added.
      attention_bias, output_bias, mlp_bias: whether projections have a bias: query, key and value;
        the attention's output; the feed-forward layer.
      scale: factor on the attention scores.
      softcap, head_softcap: bounds of the attention scores and of the logits, or None.
      embedding_scale: factor on the embeddings.
      tied: whether the logits are taken with the word table.
      positions: rows of a learned table of positions, or None.
      frequencies: per kind of layer, its rotary frequencies; empty without rotation.
      kinds: per layer, which of those it takes; empty where there is one kind.
      windows: per layer, how many tokens it sees, or None for all; empty where all see all.
      attention_rate, rate, embedding_rate: dropout rates of attention weights, of the layers and of
        the embeddings.
      stddev, output_stddev: standard deviations of the initial kernels, and of those that write to
        the residual stream.
    """

    width: int
    depth: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    vocabulary: int
    act: str
    epsilon: float
    scale: float
    norm: Literal["layer", "rms", "rms_offset"] = "rms"
    gated: bool = True
    head_norm: bool = False
    post_norms: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    softcap: float | None = None
    head_softcap: float | None = None
    embedding_scale: float = 1.0
    tied: bool = True
    positions: int | None = None
    frequencies: tuple[tuple[float, ...], ...] = ()
    kinds: tuple[int, ...] = ()
    windows: tuple[int | None, ...] = ()
    attention_rate: float = 0.0
    rate: float = 0.0
    embedding_rate: float = 0.0
    stddev: float = 0.02
    output_stddev: float = 0.02


def shape_of(config: object) -> Shape | None:
    """Return what a decoder is made of by its config; None where that is no decoder's."""
    shape = getattr(config, "shape", None)
    return shape if isinstance(shape, Shape) else None


class RMSNorm(nnx.Module):
    """Division by the root mean square over the last axis, in float32 (Zhang and Sennrich 2019)."""

    def __init__(
        self,
        width: int,
        *,
        epsilon: float,
        offset: bool = False,
        axes: Axes = ("embed",),
        stack: tuple[int, ...] = (),
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        start = jnp.zeros if offset else jnp.ones
        self.scale = parameter(start((*stack, width), jnp.float32), axes, stack)
        self.axes = axes
        self.epsilon = epsilon
        self.offset = offset
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `[..., D]`; the result has the compute dtype."""
        values = x.astype(jnp.float32)
        normal = values * lax.rsqrt(jnp.square(values).mean(-1, keepdims=True) + self.epsilon)
        scale = along_last(gather(self.scale[...], self.axes), x.ndim)
        return (normal * (1.0 + scale if self.offset else scale)).astype(self.dtype)


def norm_of(shape: Shape, stack: tuple[int, ...], dtype: DTypeLike) -> LayerNorm | RMSNorm:
    """Make the normalization that a decoder of that shape uses."""
    if shape.norm == "layer":
        return LayerNorm(shape.width, epsilon=shape.epsilon, stack=stack, dtype=dtype)
    offset = shape.norm == "rms_offset"
    return RMSNorm(shape.width, epsilon=shape.epsilon, offset=offset, stack=stack, dtype=dtype)


class DecoderAttention(nnx.Module):
    """Projections to queries, keys and values, and of what is mixed of them."""

    def __init__(
        self, shape: Shape, rngs: nnx.Rngs, *, stack: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        own, shared = shape.heads * shape.head_width, shape.key_heads * shape.head_width

        def project(outputs: int) -> Linear:
            return Linear(
                shape.width,
                outputs,
                rngs,
                axes=("embed", "heads"),
                stack=stack,
                stddev=shape.stddev,
                bias=shape.attention_bias,
                dtype=dtype,
            )

        def head_norm() -> RMSNorm | None:
            if not shape.head_norm:
                return None
            return RMSNorm(
                shape.head_width,
                epsilon=shape.epsilon,
                offset=shape.norm == "rms_offset",
                axes=(None,),
                stack=stack,
                dtype=dtype,
            )

        self.query, self.key, self.value = project(own), project(shared), project(shared)
        self.query_norm, self.key_norm = head_norm(), head_norm()
        self.output = Linear(
            own,
            shape.width,
            rngs,
            axes=("heads", "embed"),
            stack=stack,
            stddev=shape.output_stddev,
            bias=shape.output_bias,
            dtype=dtype,
        )
        self.head_width = shape.head_width

    def __call__(
        self, x: jax.Array, rotation: Rotation | None, mix: Mix, rng: jax.Array | None
    ) -> tuple[jax.Array, Tree]:
        """Mix `[B, T, D]` over `T`; also returns what `mix` emits."""
        query, key, value = (
            y.reshape(*y.shape[:-1], -1, self.head_width)
            for y in (self.query(x), self.key(x), self.value(x))
        )  # [B, T, H or K, d]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        mixed, emitted = mix(query, key, value, rng)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), emitted


class Inside(NamedTuple):
    """What a layer computes on the way.

    Attributes:
      entered: `[B, T, D]`, what the attention's normalization reads.
      attended: `[B, T, D]`, what the attention reads.
      mixed: `[B, T, D]`, what the attention gives.
      between: `[B, T, D]`, what the normalization of the feed-forward network reads.
      fed: `[B, T, D]`, what the feed-forward network reads.
      inner: `[B, T, I]`, what the last projection of the feed-forward network reads.
      outer: `[B, T, D]`, what the feed-forward network gives.
    """

    entered: jax.Array
    attended: jax.Array
    mixed: jax.Array
    between: jax.Array
    fed: jax.Array
    inner: jax.Array
    outer: jax.Array


class DecoderLayer(nnx.Module):
    """Attention and a feed-forward network, each on a normalized input and added to it."""

    def __init__(
        self, shape: Shape, rngs: nnx.Rngs, *, stack: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        def dense(inputs: int, outputs: int, axes: Axes, stddev: float) -> Linear:
            return Linear(
                inputs,
                outputs,
                rngs,
                axes=axes,
                stack=stack,
                stddev=stddev,
                bias=shape.mlp_bias,
                dtype=dtype,
            )

        width, inner, stddev = shape.width, shape.inner, shape.stddev
        post = shape.post_norms
        self.attention_norm = norm_of(shape, stack, dtype)
        self.attention = DecoderAttention(shape, rngs, stack=stack, dtype=dtype)
        self.attention_post_norm = norm_of(shape, stack, dtype) if post else None
        self.mlp_norm = norm_of(shape, stack, dtype)
        self.gate = dense(width, inner, ("embed", "mlp"), stddev) if shape.gated else None
        self.up = dense(width, inner, ("embed", "mlp"), stddev)
        self.down = dense(inner, width, ("mlp", "embed"), shape.output_stddev)
        self.mlp_post_norm = norm_of(shape, stack, dtype) if post else None
        self.act = shape.act
        self.rate = shape.rate

    def __call__(
        self,
        hidden: jax.Array,
        rotation: Rotation | None,
        mix: Mix,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree]:
        """Map `[B, T, D]` to `[B, T, D]`; also returns what `mix` emits."""
        hidden, emitted, _ = self.opened(hidden, rotation, mix, rng)
        return hidden, emitted

    def opened(
        self,
        hidden: jax.Array,
        rotation: Rotation | None,
        mix: Mix,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree, Inside]:
        """Do the same; also returns what is computed on the way."""
        rngs = split_rng(rng, 3)
        attended = self.attention_norm(hidden)
        mixed, emitted = self.attention(attended, rotation, mix, rngs[0])
        between = self._join(hidden, mixed, self.attention_post_norm, rngs[1])
        fed = self.mlp_norm(between)
        inner = self._inner(fed)
        outer = self.down(inner)
        inside = Inside(hidden, attended, mixed, between, fed, inner, outer)
        return self._join(between, outer, self.mlp_post_norm, rngs[2]), emitted, inside

    def _inner(self, x: jax.Array) -> jax.Array:
        act = activation(self.act)
        return act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)

    def _join(
        self,
        hidden: jax.Array,
        block: jax.Array,
        post_norm: LayerNorm | RMSNorm | None,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Add a block's output to the residual stream."""
        block = block if post_norm is None else post_norm(block)
        return hidden + dropout(block, self.rate, rng)
