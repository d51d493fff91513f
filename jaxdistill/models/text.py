"""What the text families share: batches, the post-norm encoder layer, taps, pooling and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.family import Options
from jaxdistill.models.layers import (
    Attention,
    LayerNorm,
    Linear,
    Pool,
    activation,
    along_last,
    dropout,
    parameter,
    run_layers,
    split_rng,
)
from jaxdistill.models.outputs import Head, Outputs

Batch = Mapping[str, jax.Array]


def check_config(name: str, config: Any, *, width: int, heads: int) -> None:
    """Raise ModelError where a text config holds what cannot be built."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if field.name.endswith("dropout") or field.name.endswith("dropout_prob"):
            if value is not None and not (number and 0 <= value <= 1):
                raise ModelError(f"{name}.{field.name}: got {value!r}, expected 0 to 1 (or null)")
        elif type(field.default) is int and field.name != "pad_token_id" and value < 1:
            raise ModelError(f"{name}.{field.name}: got {value}, expected at least 1")
    if width % heads:
        raise ModelError(
            f"{name}: got width {width} with {heads} attention heads, expected a multiple of them"
        )
    for field, plain in (
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("position_embedding_type", "absolute"),
        ("pruned_heads", {}),
        ("tie_word_embeddings", True),
    ):
        got = config.extra.get(field, plain)
        if got != plain:
            raise ModelError(f"{name}.{field}: got {got!r}, only {plain!r} is supported")


def input_ids_of(batch: Batch, limit: int) -> jax.Array:
    """Return `input_ids` `[B, T]`.

    Raises:
      ModelError: they are missing or misshapen, or rows without `position_ids` are longer than
        `limit` positions.
    """
    if "input_ids" not in batch or batch["input_ids"].ndim != 2:
        got = batch["input_ids"].shape if "input_ids" in batch else sorted(batch)
        raise ModelError(f"batch: got {got}, expected input_ids of shape [B, T]")
    ids = batch["input_ids"]
    if "position_ids" not in batch and ids.shape[1] > limit:
        raise ModelError(
            f"input_ids: got rows of {ids.shape[1]} tokens, expected at most {limit}, the model's "
            "number of positions; truncate the text"
        )
    return ids


def attention_mask_of(batch: Batch) -> jax.Array | None:
    """Return where attention is allowed, `[B, 1, 1, T]`, `[B, 1, T, T]` when packed, or None."""
    segments = batch.get("segment_ids")
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
        return same[:, None]
    mask = batch.get("attention_mask")
    return None if mask is None else (mask > 0)[:, None, None, :]


def pool_of(batch: Batch) -> Pool:
    """Return which tokens a classification head reads.

    Raises:
      ModelError: packed rows without `pool_rows` and `pool_columns`, or these without segments.
    """
    fields = [name for name in ("segment_ids", "pool_rows", "pool_columns") if name in batch]
    if not fields:
        return Pool()
    if len(fields) < 3:
        raise ModelError(
            f"batch: got {fields}, expected segment_ids, pool_rows and pool_columns together"
        )
    return Pool(batch["pool_rows"], batch["pool_columns"])


def mean_of_tokens(hidden: jax.Array, batch: Batch, pool: Pool) -> jax.Array:
    """Average `[B, T, D]` over each example's valid tokens, in float32: `[N, D]`."""
    if pool.rows is not None and pool.columns is not None:
        segments = batch["segment_ids"]
        own = segments[pool.rows, pool.columns]  # [N]
        valid = (segments[pool.rows] == own[:, None]) & (own > 0)[:, None]  # [N, T]
    elif "attention_mask" in batch:
        valid = batch["attention_mask"] > 0
    else:
        valid = jnp.ones(hidden.shape[:2], bool)
    weight = valid.astype(jnp.float32)
    total = jnp.einsum("nt,ntd->nd", weight, pool.context(hidden).astype(jnp.float32))
    return total / jnp.maximum(weight.sum(-1, keepdims=True), 1.0)


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

    def step(layer: LayerCall, hidden: jax.Array, rng: jax.Array | None) -> tuple[jax.Array, Any]:
        hidden, probabilities = layer(hidden, mask, rng)
        return hidden, (hidden if emit_hidden else None, probabilities if emit_attention else None)

    def last(layer: LayerCall, hidden: jax.Array, rng: jax.Array | None) -> tuple[jax.Array, Any]:
        hidden, probabilities = layer(hidden, mask, rng, pool)
        return hidden, probabilities if last_attention else None

    apart = pool is not None or (last_attention and not emit_attention)
    hidden, emitted, own = run_layers(
        layers,
        step,
        hidden,
        depth=depth,
        rng=rng,
        unroll=options.unroll,
        remat=options.remat,
        last=last if apart else None,
    )
    features = {}
    for i in range(depth):
        if f"layers.{i}.hidden" in taps:
            features[f"layers.{i}.hidden"] = hidden if i == depth - 1 else emitted[0][i]
        if f"layers.{i}.attention" in taps:
            alone = apart and i == depth - 1
            features[f"layers.{i}.attention"] = own if alone else emitted[1][i]
    return hidden, features, pool is not None


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
        stddev: float = 0.02,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.dense = Linear(width, width, rngs, axes=("embed", None), stddev=stddev, dtype=dtype)
        self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.bias = parameter(jnp.zeros((vocabulary,), jnp.float32), ("vocab",))
        self.act = act

    def __call__(
        self, hidden: jax.Array, weights: jax.Array, features: dict[str, jax.Array]
    ) -> Outputs:
        """Predict tokens from `[B, T, D]` with `weights` `[D, V]`."""
        hidden = self.norm(activation(self.act)(self.dense(hidden)))
        logits = jnp.einsum(
            "btd,dv->btv", hidden, weights.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        bias = self.bias[...]
        return Outputs(logits + along_last(bias, 3), hidden, features, Head(weights, bias))


def pooled_vector(
    hidden: jax.Array, batch: Batch, *, pooling: str, pool: Pool, reduced: bool
) -> jax.Array:
    """Pool the last hidden state, `[B, T, D]` or already `reduced` `[N, 1, D]`, to `[N, D]`."""
    if pooling == "mean":
        return mean_of_tokens(hidden, batch, pool).astype(hidden.dtype)
    return (hidden if reduced else pool.tokens(hidden))[:, 0]
