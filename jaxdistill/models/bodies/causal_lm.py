"""A language model: embeddings, a run through the stacked decoder layers, and the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.models.bodies.text_encoder import input_ids_of
from jaxdistill.models.family import Options
from jaxdistill.models.layers import flash
from jaxdistill.models.layers.attention import attend_causally, positions_of, segments_of, visible
from jaxdistill.models.layers.basic import Embedding, dropout, run_layers, split_rng
from jaxdistill.models.layers.decoder_layer import DecoderLayer, Shape, norm_of
from jaxdistill.models.layers.encoder_layer import check_taps
from jaxdistill.models.layers.heads import own_head, projection_weights, token_outputs
from jaxdistill.models.layers.rotary import Rotation, rotations
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.types import Tree

_EVERYTHING = 2**30  # a window that no row is longer than: what a layer without one sees

Call = Callable[..., tuple[jax.Array, Tree]]
"""Runs one layer: `(layer, hidden, rotation, rng, own) -> (hidden, emitted)`."""


def _layer_kinds(shape: Shape) -> dict[str, jax.Array | None]:
    """Return what differs between layers, as arrays `[depth]` to scan with, None where nothing."""
    windows = None
    if any(window is not None for window in shape.windows):
        windows = jnp.asarray(
            np.array([_EVERYTHING if w is None else w for w in shape.windows], np.int32)
        )
    kinds = jnp.asarray(np.array(shape.kinds, np.int32)) if shape.kinds else None
    return {"window": windows, "kind": kinds}


def _rotation_of(rotations: Rotation | None, kind: jax.Array | None) -> Rotation | None:
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
        self.norm = norm_of(shape, (), dtype)
        self.head = own_head(shape, options, rngs, stddev=shape.stddev)
        self.shape = shape
        self.options = options

    def last_projection(self) -> Head:
        """Return the projection from the last hidden state to logits."""
        weights = projection_weights(self.head, self.embeddings.word)
        return Head(weights, softcap=self.shape.head_softcap)

    def run(
        self,
        call: Call,
        hidden: jax.Array,
        positions: jax.Array,
        *,
        rng: jax.Array | None = None,
        remat: bool = False,
        cache: Tree = None,
    ) -> tuple[jax.Array, Tree]:
        """Run the stacked layers on embedded tokens `[B, T, D]` at positions `[1 or B, T]`.

        Args:
          call: how one layer is run; `own` is what differs between layers: its `window` (None where
            all see everything) and its part of the `cache`.
          rng: split into one key per layer.
          remat: recompute each layer's intermediates in the backward pass.
          cache: nested arrays with a leading axis of layers, or None.

        Returns:
          The hidden state before the last normalization, and what `call` emitted, stacked.
        """
        shape = self.shape
        table = rotations(shape.frequencies, positions) if shape.frequencies else None

        def step(
            layer: DecoderLayer, hidden: jax.Array, rng: jax.Array | None, own: Tree
        ) -> tuple[jax.Array, Tree]:
            return call(layer, hidden, _rotation_of(table, own["kind"]), rng, own)

        hidden, emitted, _ = run_layers(
            self.layers,
            step,
            hidden,
            depth=shape.depth,
            rng=rng,
            unroll=self.options.unroll,
            remat=remat,
            each={**_layer_kinds(shape), "cache": cache},
        )
        return hidden, emitted

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
        return token_outputs(hidden, features, self.last_projection, self.options)

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
        in_blocks = not emit_attention and flash.wanted(
            hidden.shape[0],
            hidden.shape[1],
            shape.heads,
            shape.key_heads,
            choice=self.options.attention,
            dropped=shape.attention_rate > 0.0 and rng is not None,
        )

        def call(
            layer: DecoderLayer,
            hidden: jax.Array,
            rotation: Rotation | None,
            rng: jax.Array | None,
            own: Tree,
        ) -> tuple[jax.Array, Tree]:
            def mix(
                query: jax.Array, key: jax.Array, value: jax.Array, rng: jax.Array | None
            ) -> tuple[jax.Array, Tree]:
                if in_blocks:
                    mixed = flash.attend_in_blocks(
                        query,
                        key,
                        value,
                        segments,
                        scale=shape.scale,
                        softcap=shape.softcap,
                        window=own["window"],
                        windows=shape.windows,
                    )
                    return mixed, None
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

            hidden, probabilities = layer(hidden, rotation, mix, rng)
            return hidden, (hidden if emit_hidden else None, probabilities)

        hidden, emitted = self.run(call, hidden, positions, rng=rng, remat=self.options.remat)
        features = {}
        for name in wanted:
            _, index, kind = name.split(".")
            features[name] = emitted[0 if kind == "hidden" else 1][int(index)]
        return hidden, features
