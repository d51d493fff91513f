"""Heads of the text families; what the last projection reads is `Outputs.hidden`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.losses import head as last
from jaxdistill.models.family import Options
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import (
    Embedding,
    LayerNorm,
    Linear,
    dropout,
    parameter,
    split_rng,
)
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.parallel.sharding import product


class Pooler(Linear):
    """A dense layer and tanh on the pooled token (Devlin et al. 2019)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[N, D]` to `[N, D]`."""
        return jnp.tanh(super().__call__(x))


class ClassificationHead(nnx.Module):
    """Dropout, an optional dense layer, and the projection to `[N, C]` float32 logits."""

    def __init__(
        self,
        width: int,
        labels: int,
        rngs: nnx.Rngs,
        *,
        rate: float,
        dense: str | None = None,
        drop_input: bool = True,
        stddev: float = 0.02,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.dense = (
            None
            if dense is None
            else Linear(width, width, rngs, axes=("embed", None), stddev=stddev, dtype=dtype)
        )
        self.output = Linear(width, labels, rngs, axes=("embed", None), stddev=stddev)
        self.act = dense
        self.rate = rate
        self.drop_input = drop_input

    def __call__(
        self, pooled: jax.Array, rng: jax.Array | None, features: dict[str, jax.Array]
    ) -> Outputs:
        """Classify `[N, D]`; `hidden` of the outputs is what the projection reads."""
        rngs = split_rng(rng, 2)
        vector = dropout(pooled, self.rate, rngs[0]) if self.drop_input else pooled
        if self.dense is not None:
            vector = activation(self.act or "tanh")(self.dense(vector))
            vector = dropout(vector, self.rate, rngs[1])
        vector = vector.astype(jnp.float32)
        bias = None if self.output.bias is None else self.output.bias[...]
        head = Head(self.output.kernel[...], bias)
        return Outputs(self.output(vector), vector, features, head)


class MaskedLMHead(nnx.Module):
    """Dense, activation, layer norm, and the projection by the word table: `[B, T, V]` float32."""

    def __init__(
        self,
        width: int,
        vocabulary: int,
        rngs: nnx.Rngs,
        *,
        act: str,
        epsilon: float,
        embedding_width: int | None = None,
        stddev: float = 0.02,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.dense = Linear(width, width, rngs, axes=("embed", None), stddev=stddev, dtype=dtype)
        self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.bias = parameter(jnp.zeros((vocabulary,), jnp.float32), ("vocab",))
        narrower = width - (embedding_width or width)
        rest = jax.random.normal(rngs.params(), (narrower, vocabulary), jnp.float32) * stddev
        self.rest = parameter(rest, (None, "vocab")) if narrower else None
        self.act = act

    def __call__(
        self, hidden: jax.Array, table: jax.Array, features: dict[str, jax.Array]
    ) -> Outputs:
        """Predict tokens from `[B, T, D]` with the word table `[V, E]`, extended to `[V, D]`."""
        weights = table.T  # [E, V]
        if self.rest is not None:
            weights = jnp.concatenate([weights, self.rest[...]])
        hidden = self.norm(activation(self.act)(self.dense(hidden)))
        head = Head(weights, self.bias[...])
        return Outputs(logits_of(hidden, head), hidden, features, head)


class Sizes(Protocol):
    """What the head of a language model is made by."""

    @property
    def width(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def tied(self) -> bool: ...


def own_head(sizes: Sizes, options: Options, rngs: nnx.Rngs, *, stddev: float) -> Linear | None:
    """Make a projection to logits, `[D, V]` float32; None where it is tied or there is no head."""
    if options.head != "lm" or sizes.tied:
        return None
    axes = ("embed", "vocab")
    return Linear(sizes.width, sizes.vocabulary, rngs, axes=axes, stddev=stddev, bias=False)


def projection_weights(head: Linear | None, words: Embedding) -> jax.Array:
    """Return the weights `[D, V]` of a model's head, else those of its word table."""
    return words.table[...].T if head is None else head.kernel[...]


def token_outputs(
    hidden: jax.Array,
    features: dict[str, jax.Array],
    last_projection: Callable[[], Head],
    options: Options,
) -> Outputs:
    """Return what a language model gives for its last hidden states `[B, T, D]`."""
    if options.head is None:
        return Outputs(None, hidden, features)
    head = last_projection()
    return Outputs(logits_of(hidden, head) if options.logits else None, hidden, features, head)


def logits_of(hidden: jax.Array, head: Head) -> jax.Array:
    """Project `[B, T, D]` by a model's head to `[B, T, V]` float32 logits."""
    multiply = functools.partial(product, axes=("embed", "vocab"))
    return last.logits_of(hidden, head.weights, head.bias, head.constants, multiply=multiply)
