"""The post-norm encoder layer, and a run through the stacked layers that collects their taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.family import Options
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import (
    Attention,
    LayerNorm,
    Linear,
    Pool,
    dropout,
    run_layers,
    split_rng,
)
from jaxdistill.types import Tree


class EncoderLayer(nnx.Module):
    """A post-norm transformer layer (Vaswani et al. 2017; Devlin et al. 2019)."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        rngs: nnx.Rngs,
        *,
        act: str,
        epsilon: float,
        rate: float,
        attention_rate: float,
        attention_output_rate: float,
        stack: tuple[int, ...] = (),
        stddev: float = 0.02,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.attention = Attention(
            width, heads, rngs, rate=attention_rate, stack=stack, stddev=stddev, dtype=dtype
        )
        self.attention_norm = LayerNorm(width, epsilon=epsilon, stack=stack, dtype=dtype)
        self.up = Linear(
            width, inner, rngs, axes=("embed", "mlp"), stack=stack, stddev=stddev, dtype=dtype
        )
        self.down = Linear(
            inner, width, rngs, axes=("mlp", "embed"), stack=stack, stddev=stddev, dtype=dtype
        )
        self.output_norm = LayerNorm(width, epsilon=epsilon, stack=stack, dtype=dtype)
        self.act = act
        self.rate = rate
        self.attention_output_rate = attention_output_rate

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        rng: jax.Array | None = None,
        pool: Pool | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Map `[B, T, D]` to `[B, T, D]` (`[N, 1, D]` with `pool`) and attention probabilities."""
        rngs = split_rng(rng, 3)
        mixed, probabilities = self.attention(hidden, mask, rngs[0], pool=pool)
        residual = hidden if pool is None else pool.tokens(hidden)
        mixed = dropout(mixed, self.attention_output_rate, rngs[1])
        hidden = self.attention_norm(residual + mixed)
        inner = activation(self.act)(self.up(hidden))
        outer = dropout(self.down(inner), self.rate, rngs[2])
        return self.output_norm(hidden + outer), probabilities


class LayerCall(Protocol):
    """One encoder layer: `(hidden, mask, rng, pool) -> (hidden, attention probabilities)`."""

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None,
        rng: jax.Array | None = None,
        pool: Pool | None = None,
    ) -> tuple[jax.Array, jax.Array]: ...


def check_taps(taps: Sequence[str], depth: int, *, pooled: bool) -> None:
    """Raise ModelError for a tap that a text model of `depth` layers does not have."""
    known = ["embeddings", *(["pooled"] if pooled else [])]
    layers = [f"layers.{i}.{kind}" for i in range(depth) for kind in ("hidden", "attention")]
    for tap in taps:
        if tap not in known and tap not in layers:
            raise ModelError(
                f"taps: got {tap!r}, expected one of {known} or layers.0 to layers.{depth - 1} "
                f"with .hidden or .attention.{did_you_mean(tap, [*known, *layers])}"
            )


def encode(
    layers: nnx.Module,
    hidden: jax.Array,
    mask: jax.Array | None,
    *,
    depth: int,
    taps: Sequence[str],
    rng: jax.Array | None,
    options: Options,
    pool: Pool | None,
) -> tuple[jax.Array, dict[str, jax.Array], bool]:
    """Run the stacked layers and collect their taps.

    With `pool`, the last layer computes the pooled tokens only, unless a tap needs all of it: the
    others would not reach the logits.

    Returns:
      The last hidden state, the taps, and whether only the pooled tokens were computed: then the
      hidden state is `[N, 1, D]`, else `[B, T, D]`.
    """
    early = range(depth - 1)
    emit_hidden = any(f"layers.{i}.hidden" in taps for i in early)
    emit_attention = any(f"layers.{i}.attention" in taps for i in early)
    last_attention = f"layers.{depth - 1}.attention" in taps
    if last_attention or f"layers.{depth - 1}.hidden" in taps:
        pool = None

    def step(layer: LayerCall, hidden: jax.Array, rng: jax.Array | None) -> tuple[jax.Array, Tree]:
        hidden, probabilities = layer(hidden, mask, rng)
        return hidden, (hidden if emit_hidden else None, probabilities if emit_attention else None)

    def last(layer: LayerCall, hidden: jax.Array, rng: jax.Array | None) -> tuple[jax.Array, Tree]:
        hidden, probabilities = layer(hidden, mask, rng, pool)
        return hidden, probabilities if last_attention else None

    separate = pool is not None or (last_attention and not emit_attention)
    hidden, emitted, own = run_layers(
        layers,
        step,
        hidden,
        depth=depth,
        rng=rng,
        unroll=options.unroll,
        remat=options.remat,
        last=last if separate else None,
    )
    features = {}
    for i in range(depth):
        if f"layers.{i}.hidden" in taps:
            features[f"layers.{i}.hidden"] = hidden if i == depth - 1 else emitted[0][i]
        if f"layers.{i}.attention" in taps:
            alone = separate and i == depth - 1
            features[f"layers.{i}.attention"] = own if alone else emitted[1][i]
    return hidden, features, pool is not None
