"""The pre-norm decoder layer, a run through the stacked layers, and the model around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.models.activations import activation
from jaxdistill.models.attention import Mix, attend_causally, positions_of, segments_of, visible
from jaxdistill.models.encoder import check_taps
from jaxdistill.models.family import Options
from jaxdistill.models.heads import logits_of
from jaxdistill.models.layers import (
    Axes,
    Embedding,
    LayerNorm,
    Linear,
    along_last,
    dropout,
    parameter,
    run_layers,
    split_rng,
)
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.models.rotary import Rotation, rotate, rotations
from jaxdistill.models.text import input_ids_of

EVERYTHING = 2**30  # a window that no row is longer than: what a layer without one sees


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a decoder is made of; the families differ in nothing else.

    Attributes:
      width, depth, heads, inner, vocabulary: sizes.
      key_heads: heads of keys and values, which `heads` is a multiple of.
      head_width: width of one head.
      act: activation of the feed-forward layer.
      epsilon: of the normalizations.
      norm: `layer`; `rms`; or `rms_offset`, which scales by one plus its parameter.
      gated: whether a gate multiplies the inner layer (Shazeer 2020).
      head_norm: whether queries and keys are normalized per head.
      post_norms: whether each block's output is normalized, too, before it is added.
      attention_bias, output_bias, mlp_bias: of query, key and value; of their output; of the rest.
      scale: factor on the attention scores.
      softcap, head_softcap: of the attention scores and of the logits, or None.
      embedding_scale: factor on the embeddings.
      tied: whether the logits are taken with the word table.
      positions: rows of a learned table of positions, or None.
      frequencies: per kind of layer, its rotary frequencies; empty without rotation.
      kinds: per layer, which of those it takes; empty where there is one kind.
      windows: per layer, how many tokens it sees, or None for all; empty where all see all.
      attention_rate, rate, embedding_rate: of dropout.
      stddev, output_stddev: of the initial kernels, and of those that write to the residual stream.
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
        self.epsilon = epsilon
        self.offset = offset
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `[..., D]`; the result has the compute dtype."""
        values = x.astype(jnp.float32)
        normal = values * lax.rsqrt(jnp.square(values).mean(-1, keepdims=True) + self.epsilon)
        scale = along_last(self.scale[...], x.ndim)
        return (normal * (1.0 + scale if self.offset else scale)).astype(self.dtype)


def _norm(shape: Shape, stack: tuple[int, ...], dtype: DTypeLike) -> LayerNorm | RMSNorm:
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
    ) -> tuple[jax.Array, Any]:
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
        self.attention_norm = _norm(shape, stack, dtype)
        self.attention = DecoderAttention(shape, rngs, stack=stack, dtype=dtype)
        self.attention_post_norm = _norm(shape, stack, dtype) if post else None
        self.mlp_norm = _norm(shape, stack, dtype)
        self.gate = dense(width, inner, ("embed", "mlp"), stddev) if shape.gated else None
        self.up = dense(width, inner, ("embed", "mlp"), stddev)
        self.down = dense(inner, width, ("mlp", "embed"), shape.output_stddev)
        self.mlp_post_norm = _norm(shape, stack, dtype) if post else None
        self.act = shape.act
        self.rate = shape.rate

    def __call__(
        self,
        hidden: jax.Array,
        rotation: Rotation | None,
        mix: Mix,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Map `[B, T, D]` to `[B, T, D]`; also returns what `mix` emits."""
        rngs = split_rng(rng, 3)
        mixed, emitted = self.attention(self.attention_norm(hidden), rotation, mix, rngs[0])
        if self.attention_post_norm is not None:
            mixed = self.attention_post_norm(mixed)
        hidden = hidden + dropout(mixed, self.rate, rngs[1])
        x = self.mlp_norm(hidden)
        act = activation(self.act)
        inner = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        outer = self.down(inner)
        if self.mlp_post_norm is not None:
            outer = self.mlp_post_norm(outer)
        return hidden + dropout(outer, self.rate, rngs[2]), emitted


def layer_kinds(shape: Shape) -> dict[str, jax.Array | None]:
    """Return what differs between layers, as arrays `[depth]` to scan with, None where nothing."""
    windows = None
    if any(window is not None for window in shape.windows):
        windows = jnp.asarray(
            np.array([EVERYTHING if w is None else w for w in shape.windows], np.int32)
        )
    kinds = jnp.asarray(np.array(shape.kinds, np.int32)) if shape.kinds else None
    return {"window": windows, "kind": kinds}


def rotation_of(rotations: Rotation | None, kind: jax.Array | None) -> Rotation | None:
    """Pick a layer's rotation from those of all kinds, `[kinds, ...]`."""
    if rotations is None:
        return None
    cosine, sine = rotations
    return (cosine[0], sine[0]) if kind is None else (cosine[kind], sine[kind])


class DecoderEmbeddings(nnx.Module):
    """Word embeddings, scaled, and learned positions where the family has them."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        axes = ("vocab", "embed")
        self.word = Embedding(
            shape.vocabulary, shape.width, rngs, axes=axes, stddev=shape.stddev, dtype=dtype
        )
        self.position = (
            None
            if shape.positions is None
            else Embedding(shape.positions, shape.width, rngs, stddev=shape.stddev, dtype=dtype)
        )
        self.scale = shape.embedding_scale
        self.rate = shape.embedding_rate

    def __call__(
        self, ids: jax.Array, positions: jax.Array, rng: jax.Array | None = None
    ) -> jax.Array:
        """Embed `[B, T]` ids at positions `[1 or B, T]` as `[B, T, D]`."""
        total = self.word(ids)
        if self.scale != 1.0:
            total = total * jnp.asarray(self.scale, total.dtype)
        if self.position is not None:
            total = total + self.position(positions)
        return dropout(total, self.rate, rng)


class DecoderModel(nnx.Module):
    """Embeddings, stacked layers, a last normalization, and a head for the next token or none."""

    def __init__(self, shape: Shape, options: Options, rngs: nnx.Rngs) -> None:
        dtype = jnp.dtype(options.dtype)
        self.embeddings = DecoderEmbeddings(shape, rngs, dtype=dtype)
        self.layers = DecoderLayer(shape, rngs, stack=(shape.depth,), dtype=dtype)
        self.norm = _norm(shape, (), dtype)
        self.head = (
            Linear(
                shape.width,
                shape.vocabulary,
                rngs,
                axes=("embed", "vocab"),
                stddev=shape.stddev,
                bias=False,
            )
            if options.head == "lm" and not shape.tied
            else None
        )
        self.shape = shape
        self.options = options

    def last_projection(self) -> Head:
        """Return the projection from the last hidden state to logits."""
        weights = (
            self.embeddings.word.table[...].T if self.head is None else self.head.kernel[...]
        )  # [D, V]
        return Head(weights, softcap=self.shape.head_softcap)

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        rng: jax.Array | None,
        train: bool,
        taps: Sequence[str],
    ) -> Outputs:
        """Run the model on a text batch; dropout draws from `rng`, None in evaluation.

        `Outputs.hidden`, `[B, T, D]`, is the last hidden state after the last normalization: what
        the last projection reads. As in transformers, so is the tap of the last layer.

        Raises:
          ModelError: an unknown tap, or a batch without `input_ids`, or with rows too long.
        """
        shape = self.shape
        check_taps(taps, shape.depth, pooled=False)
        ids = input_ids_of(batch, shape.positions)
        positions = positions_of(batch, ids.shape[1])
        rngs = split_rng(rng, 2)
        embedded = self.embeddings(ids, positions, rngs[0])
        hidden, features = self._decode(embedded, positions, segments_of(batch), rngs[1], taps)
        hidden = self.norm(hidden)
        if f"layers.{shape.depth - 1}.hidden" in taps:
            features[f"layers.{shape.depth - 1}.hidden"] = hidden
        if "embeddings" in taps:
            features["embeddings"] = embedded
        if self.options.head is None:
            return Outputs(None, hidden, features)
        head = self.last_projection()
        logits = logits_of(hidden, head) if self.options.logits else None
        return Outputs(logits, hidden, features, head)

    def _decode(
        self,
        hidden: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None,
        rng: jax.Array | None,
        taps: Sequence[str],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Run the stacked layers and collect their taps but the last hidden state."""
        shape, depth = self.shape, self.shape.depth
        names = [f"layers.{i}.{kind}" for i in range(depth) for kind in ("hidden", "attention")]
        wanted = [name for name in names[:-2] + names[-1:] if name in taps]
        emit_hidden = any(name.endswith("hidden") for name in wanted)
        emit_attention = any(name.endswith("attention") for name in wanted)
        table = rotations(shape.frequencies, positions) if shape.frequencies else None

        def step(
            layer: DecoderLayer, hidden: jax.Array, rng: jax.Array | None, own: Any
        ) -> tuple[jax.Array, Any]:
            def mix(
                query: jax.Array, key: jax.Array, value: jax.Array, rng: jax.Array | None
            ) -> tuple[jax.Array, Any]:
                return attend_causally(
                    query,
                    key,
                    value,
                    # Made in each layer: cheaper than to keep one of [B, T, T] for each kind.
                    visible(segments, query.shape[1], own["window"]),
                    scale=shape.scale,
                    softcap=shape.softcap,
                    rate=shape.attention_rate,
                    rng=rng,
                    emit=emit_attention,
                )

            hidden, probabilities = layer(hidden, rotation_of(table, own["kind"]), mix, rng)
            return hidden, (hidden if emit_hidden else None, probabilities)

        hidden, emitted, _ = run_layers(
            self.layers,
            step,
            hidden,
            depth=depth,
            rng=rng,
            unroll=self.options.unroll,
            remat=self.options.remat,
            each=layer_kinds(shape),
        )
        features = {}
        for name in wanted:
            _, index, kind = name.split(".")
            features[name] = emitted[0 if kind == "hidden" else 1][int(index)]
        return hidden, features
