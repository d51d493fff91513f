"""Layers shared by the model families: float32 parameters, computing in the dtype asked for.

Every parameter is an `nnx.Param` with metadata `axes`: one logical name (or None) per array axis,
from `layers, embed, mlp, heads, vocab`. A layer made with `stack=(n,)` holds n copies on a leading
axis named `layers`; `run_layers` scans over them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.models.layers.stacking import is_apart, layers_of
from jaxdistill.parallel.sharding import constrain, gather, product, recompute_gathers, to_device
from jaxdistill.types import Tree

Axes = tuple[str | None, ...]
MASKED = -1e30  # finite, so that a row with nothing to attend to gives an average, not NaN


def along_last(vector: jax.Array, ndim: int) -> jax.Array:
    """Reshape `[D]` to `[1, ..., 1, D]` with `ndim` axes, so that no rank is promoted."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def parameter(value: jax.Array, axes: Axes, stack: tuple[int, ...] = ()) -> nnx.Param[jax.Array]:
    """Wrap an array as a parameter that knows the logical names of its axes."""
    return nnx.Param(value, axes=("layers",) * len(stack) + axes)


class Linear(nnx.Module):
    """`y = x @ kernel + bias`, kernel `[in, out]` drawn from a normal distribution, bias 0."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        *,
        axes: Axes = (None, None),
        stack: tuple[int, ...] = (),
        stddev: float = 0.02,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        shape = (*stack, inputs, outputs)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * stddev
        self.kernel = parameter(kernel, axes, stack)
        zeros = jnp.zeros((*stack, outputs), jnp.float32)
        self.bias = parameter(zeros, axes[-1:], stack) if bias else None
        self.axes = axes
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Project `[..., in]` to `[..., out]` in the compute dtype."""
        y = product(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.axes)
        if self.bias is None:
            return y
        return y + along_last(gather(self.bias[...].astype(self.dtype), self.axes[-1:]), y.ndim)


class LayerNorm(nnx.Module):
    """Layer normalization over the last axis, in float32 (Ba et al. 2016)."""

    def __init__(
        self,
        width: int,
        *,
        epsilon: float,
        stack: tuple[int, ...] = (),
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.scale = parameter(jnp.ones((*stack, width), jnp.float32), ("embed",), stack)
        self.bias = parameter(jnp.zeros((*stack, width), jnp.float32), ("embed",), stack)
        self.epsilon = epsilon
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `[..., D]`; the result has the compute dtype."""
        values = x.astype(jnp.float32)
        centred = values - values.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normal = centred * lax.rsqrt(variance + self.epsilon)
        scale, bias = (gather(part[...], ("embed",)) for part in (self.scale, self.bias))
        return (normal * along_last(scale, x.ndim) + along_last(bias, x.ndim)).astype(self.dtype)


class Embedding(nnx.Module):
    """A table `[N, D]`; an id outside of it reads NaN, so that a wrong vocabulary is loud."""

    def __init__(
        self,
        count: int,
        width: int,
        rngs: nnx.Rngs,
        *,
        axes: Axes = (None, "embed"),
        stddev: float = 0.02,
        zero_row: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        table = jax.random.normal(rngs.params(), (count, width), jnp.float32) * stddev
        if zero_row is not None and 0 <= zero_row < count:
            table = table.at[zero_row].set(0.0)
        self.table = parameter(table, axes)
        self.axes = axes
        self.dtype = jnp.dtype(dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Look up `[...]` integer ids as `[..., D]` in the compute dtype."""
        table = gather(self.table[...], self.axes)
        return jnp.take(table, ids, axis=0, mode="fill").astype(self.dtype)


def dropout(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
    """Zero each entry with probability `rate` and scale the rest by the inverse of what is kept.

    Draws 16 random bits per entry, so the rate is rounded to a multiple of 2**-16 and the scale is
    that of the rounded rate. `rng` None or a rate of 0 returns `x`.
    """
    kept = round((1.0 - rate) * 65536)
    if rng is None or kept >= 65536:
        return x
    if kept <= 0:
        return jnp.zeros_like(x)
    halves = -(-x.shape[-1] // 2)
    words = jax.random.bits(rng, (*x.shape[:-1], halves), jnp.uint32)
    pairs = lax.bitcast_convert_type(words, jnp.uint16)  # [..., halves, 2]
    bits = pairs.reshape(*x.shape[:-1], 2 * halves)[..., : x.shape[-1]]
    scaled = x * jnp.asarray(65536 / kept, x.dtype)
    return jnp.where(bits < jnp.uint16(kept), scaled, jnp.zeros_like(x))


def split_rng(rng: jax.Array | None, count: int) -> list[jax.Array | None]:
    """Split a key in `count` keys; None (dropout off) gives `count` times None."""
    return [None] * count if rng is None else list(jax.random.split(rng, count))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
    """Which tokens the classification head reads: each row's first, or each packed example's first.

    Attributes:
      rows: `[N]` row of each packed example, or None for one example per row.
      columns: `[N]` column of its first token, or None.
    """

    rows: jax.Array | None = None
    columns: jax.Array | None = None

    def tokens(self, x: jax.Array) -> jax.Array:
        """Pick the first tokens of `[B, T, D]`, as `[N, 1, D]`."""
        return x[:, :1] if self.rows is None else x[self.rows, self.columns][:, None]

    def context(self, x: jax.Array) -> jax.Array:
        """Pick each example's row of `[B, T, ...]`, as `[N, T, ...]`."""
        return x if self.rows is None else x[self.rows]

    def mask(self, mask: jax.Array | None) -> jax.Array | None:
        """Pick each first token's line of `[B, 1, 1 or T, T]`, as `[N, 1, 1, T]`."""
        if mask is None or self.rows is None:
            return None if mask is None else mask[:, :, :1]
        return mask[self.rows, :, self.columns][:, :, None]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    *,
    rate: float = 0.0,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Scaled dot-product attention with a float32 softmax (Vaswani et al. 2017, section 3.2.1).

    Args:
      query: `[B, Q, H, d]`; key and value: `[B, K, H, d]`.
      mask: boolean, broadcast to `[B, H, Q, K]` (four axes), True where attention is allowed; a
        query that may attend to nothing averages all values.
      rate: dropout on the probabilities, off where `rng` is None.

    Returns:
      The mixed values `[B, Q, H * d]` and the probabilities before dropout, `[B, H, Q, K]` float32.
    """
    key, value = (constrain(x, "rows", None, "heads", None) for x in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    probabilities = jax.nn.softmax(scores, axis=-1)
    weights = dropout(probabilities, rate, rng).astype(value.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1), probabilities


class Attention(nnx.Module):
    """Multi-head self-attention with its output projection."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        value_width: int | None = None,
        rate: float = 0.0,
        stack: tuple[int, ...] = (),
        stddev: float = 0.02,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        def project(inputs: int, axes: Axes, bias: bool) -> Linear:
            return Linear(
                inputs, width, rngs, axes=axes, stack=stack, stddev=stddev, bias=bias, dtype=dtype
            )

        self.query = project(width, ("embed", "heads"), bias)
        self.key = project(width, ("embed", "heads"), bias)
        self.value = project(value_width or width, ("embed", "heads"), bias)
        self.output = project(width, ("heads", "embed"), True)
        self.heads = heads
        self.rate = rate

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        rng: jax.Array | None = None,
        *,
        pool: Pool | None = None,
        value_from: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Mix `[B, T, D]` over `T`; with `pool`, compute only the pooled tokens, `[N, 1, D]`.

        Returns the projected mix and the probabilities `[B, H, T, T]` (`[N, H, 1, T]` pooled).
        """
        key = self._split(self.key(x))
        value = self._split(self.value(x if value_from is None else value_from))
        if pool is not None:
            x, mask = pool.tokens(x), pool.mask(mask)
            key, value = pool.context(key), pool.context(value)
        query = self._split(self.query(x))
        mixed, probabilities = attend(query, key, value, mask, rate=self.rate, rng=rng)
        return self.output(mixed), probabilities

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)  # [B, T, H, d]


def run_layers(
    layers: nnx.Module,
    step: Callable[..., tuple[jax.Array, Tree]],
    hidden: jax.Array,
    *,
    depth: int,
    rng: jax.Array | None = None,
    unroll: int = 1,
    remat: bool = False,
    last: Callable[..., tuple[jax.Array, Tree]] | None = None,
    each: Tree = None,
) -> tuple[jax.Array, Tree, Tree]:
    """Run `step(layer, hidden, rng) -> (hidden, emitted)` over the stacked copies of a module.

    They are scanned, or run one by one where their parameters are unstacked (`stacking.unstack`).

    Args:
      layers: a module whose parameters all have a leading axis of size `depth`, or are unstacked.
      rng: split into one key per layer; None passes None.
      unroll: layers per iteration of the scan.
      remat: recompute each layer in the backward pass instead of storing its intermediates.
      last: replaces `step` for the last layer, which then runs outside of the scan.
      each: nested arrays with a leading axis of size `depth`, of which each layer gets one part
        as a fourth argument; None passes no fourth argument.

    Returns:
      The last hidden state, what the scanned layers emitted, stacked on a leading axis, and what
      `last` emitted (None without it).
    """
    graph, state = nnx.split(layers)
    parameters = nnx.to_pure_dict(state)
    keys = None if rng is None else jax.random.split(rng, depth)

    def body(
        call: Callable[..., tuple[jax.Array, Tree]],
    ) -> Callable[[jax.Array, Tree], tuple[jax.Array, Tree]]:
        def one(hidden: jax.Array, inputs: Tree) -> tuple[jax.Array, Tree]:
            parameters, key, own = inputs
            parameters = to_device(parameters)
            extra = () if each is None else (own,)
            hidden = constrain(hidden, "rows", "length", "embed")
            return call(nnx.merge(graph, parameters), hidden, key, *extra)

        return jax.checkpoint(one, prevent_cse=False) if remat else recompute_gathers(one)

    if is_apart(parameters):
        by_layer = [
            (part, None if keys is None else keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], each))
            for i, part in enumerate(layers_of(parameters))
        ]
        rows = []
        for inputs in by_layer if last is None else by_layer[:-1]:
            hidden, row = body(step)(hidden, inputs)
            rows.append(row)
        emitted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows) if rows else None
        if last is None:
            return hidden, emitted, None
        hidden, own = body(last)(hidden, by_layer[-1])
        return hidden, emitted, own
    if last is None:
        hidden, emitted = lax.scan(
            body(step), hidden, (parameters, keys, each), unroll=min(unroll, depth)
        )
        return hidden, emitted, None
    # lax.split, whose transpose joins the gradients: indexing would pad and add them.
    leaves, structure = jax.tree.flatten(parameters)
    parts = [lax.split(leaf, (depth - 1, 1)) for leaf in leaves]
    first = (
        structure.unflatten([part[0] for part in parts]),
        None if keys is None else keys[:-1],
        jax.tree.map(lambda leaf: leaf[:-1], each),
    )
    final = (
        structure.unflatten([part[1][0] for part in parts]),
        None if keys is None else keys[-1],
        jax.tree.map(lambda leaf: leaf[-1], each),
    )
    emitted = None
    if depth > 1:
        hidden, emitted = lax.scan(body(step), hidden, first, unroll=min(unroll, depth - 1))
    hidden, own = body(last)(hidden, final)
    return hidden, emitted, own
