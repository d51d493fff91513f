"""How a cache stores the teacher's output for a token: four codecs, pure functions on arrays.

- `TopK`: k classes, their log-probabilities and the mass of the rest; for `losses.topk_*`.
- `Sampled`: a few sampled classes with unbiased weights; for `losses.sampled_forward_kl`.
- `Hidden`: the last hidden state; any loss, through the teacher's frozen head.
- `Full`: all logits, for few classes; any loss.

`encode` runs under `jit` beside the teacher, so that logits never leave the device; `decode` runs
inside the student's step, so that what crosses to the device is what was stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.losses.gather import log_sum_exp, mark_classes
from jaxdistill.losses.numerics import ABSENT
from jaxdistill.teachers.cache import quantize
from jaxdistill.teachers.cache.codec_kinds import (
    Codec,
    Full,
    Hidden,
    Sampled,
    TopK,
    blank,
    bytes_per_token,
    check_codec,
    describe,
    layout,
    make_codec,
)
from jaxdistill.teachers.cache.unbiased_sample import sample

__all__ = [
    "TARGETS",
    "Codec",
    "Full",
    "Hidden",
    "Sampled",
    "SampledTargets",
    "TopK",
    "TopKTargets",
    "blank",
    "bytes_per_token",
    "check_codec",
    "decode",
    "describe",
    "encode",
    "layout",
    "make_codec",
    "token_keys",
]

Fields = dict[str, jax.Array]


class TopKTargets(NamedTuple):
    """What `losses.topk_*` take: ids int32 and log-probabilities `[..., k]`, log tail `[...]`."""

    ids: jax.Array
    log_probabilities: jax.Array
    log_tail: jax.Array


class SampledTargets(NamedTuple):
    """What `losses.sampled_forward_kl` takes: ids int32 and weights `[..., k]`, entropy `[...]`."""

    ids: jax.Array
    weights: jax.Array
    entropy: jax.Array


TARGETS = {"topk": TopKTargets, "sampled": SampledTargets}
"""What `decode` gives for the codecs that keep a part of the distribution."""


def token_keys(seed: int, examples: ArrayLike, positions: ArrayLike) -> jax.Array:
    """Return one random key per token, a function of seed, example and position alone.

    Args:
      seed: seed of the cache.
      examples: integers `[N]`.
      positions: integers `[N]`, the token's place in its example.
    """
    fold = jax.vmap(jax.random.fold_in)
    keys = jnp.broadcast_to(jax.random.key(seed), jnp.shape(examples))
    high = jnp.asarray(examples, jnp.uint32)
    return fold(fold(keys, high), jnp.asarray(positions, jnp.uint32))


def encode(codec: Codec, values: ArrayLike, keys: jax.Array | None = None) -> Fields:
    """Turn logits (or hidden states) into stored fields; pure, for use under `jit`.

    Args:
      codec: static.
      values: logits `[N, V]` (any constant may be added to a row, log-probabilities will do), or
        hidden states `[N, D]` for `Hidden`; any float dtype.
      keys: random keys `[N]` for `Sampled`, see `token_keys`.

    Returns:
      The fields of `layout`, each with leading axis N.

    Raises:
      ConfigError: more classes are to be kept than there are, or keys are missing.
      ModelError: the values are not `[N, width]`.
    """
    values = jnp.asarray(values)
    if values.ndim != 2:
        raise ModelError(
            f"values: got shape {values.shape}, expected [tokens, width]; flatten rows"
        )
    stored = layout(codec, values.shape[-1])
    match codec:
        case TopK():
            fields = _encode_topk(codec, values.astype(jnp.float32))
        case Sampled():
            if keys is None:
                raise ConfigError("sampled: got no random keys, expected one per token: token_keys")
            fields = _encode_sampled(codec, values.astype(jnp.float32), keys)
        case Hidden():
            fields = quantize.scaled_groups(
                values, codec.dtype, codec.group, min(codec.outliers, values.shape[-1])
            )
        case Full():
            values = values.astype(jnp.float32)
            highest = jnp.max(values, -1, keepdims=True)
            fields = {"logits": values - jnp.where(jnp.isfinite(highest), highest, 0.0)}
    return {name: fields[name].astype(dtype) for name, (dtype, _) in stored.items()}


def decode(codec: Codec, fields: Mapping[str, ArrayLike]) -> Any:
    """Turn stored fields, with any leading axes, into what the losses take; pure.

    Returns:
      `TopKTargets`, `SampledTargets`, or float32 hidden states or logits.
    """
    arrays = {name: jnp.asarray(value) for name, value in fields.items()}
    match codec:
        case TopK():
            ids = quantize.join_ids(arrays)
            relative = quantize.levels_to_log(arrays["levels"], arrays["span"])
            log_tail = arrays["log_tail"].astype(jnp.float32)
            # What is not in the tail is in the k: rounding changes neither's mass.
            head = jnp.log1p(-jnp.exp(jnp.minimum(log_tail, -1e-7)))
            total = log_sum_exp(relative, 1.0, None)
            total = jnp.where(jnp.isfinite(total), total, 0.0)
            return TopKTargets(ids, relative + (head - total)[..., None], log_tail)
        case Sampled():
            weights = quantize.levels_to_weights(arrays["levels"], arrays["threshold"])
            return SampledTargets(
                quantize.join_ids(arrays), weights, arrays["entropy"].astype(jnp.float32)
            )
        case Hidden():
            return quantize.unscaled_groups(arrays, codec.group)
        case Full():
            return arrays["logits"].astype(jnp.float32)


def _encode_topk(codec: TopK, logits: jax.Array) -> Fields:
    logits = jnp.where(logits <= ABSENT, -jnp.inf, logits)
    log_normalizer = log_sum_exp(logits, codec.temperature, None)  # [N]
    top, ids = jax.lax.top_k(logits, codec.k)  # [N, k]
    present = top > ABSENT
    slots = jnp.where(present, ids, logits.shape[-1])
    rest = log_sum_exp(logits, codec.temperature, ~mark_classes(slots, logits.shape))
    below = jnp.where(present, (top[:, :1] - top) / codec.temperature, jnp.inf)
    levels, span = quantize.log_to_levels(below)
    log_tail = jnp.where(jnp.isfinite(log_normalizer), rest - log_normalizer, -jnp.inf)
    return {
        **quantize.split_ids(ids, logits.shape[-1]),
        "levels": levels,
        "span": span,
        "log_tail": log_tail,
    }


def _encode_sampled(codec: Sampled, logits: jax.Array, keys: jax.Array) -> Fields:
    scaled = jnp.where(logits <= ABSENT, -jnp.inf, logits) / codec.temperature
    log_p = scaled - log_sum_exp(scaled, 1.0, None)[:, None]
    log_p = jnp.where(jnp.isnan(log_p), -jnp.inf, log_p)  # a row without any class
    p = jnp.exp(log_p)
    entropy = -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), -1)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (codec.samples + 1,)))(keys)
    ids, weights, threshold = sample(p, uniform[:, 0], codec.samples)
    levels = quantize.weights_to_levels(weights, threshold, uniform[:, 1:])
    return {
        **quantize.split_ids(ids, logits.shape[-1]),
        "levels": levels,
        "threshold": threshold,
        "entropy": entropy,
    }
