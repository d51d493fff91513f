"""How much of the teacher's distribution a codec brings back."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError
from jaxdistill.losses.divergence import forward_kl
from jaxdistill.losses.gather import mark_classes
from jaxdistill.losses.head import logits_of
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache import codecs

MEANING = {
    "topk": "KL(teacher || stored), what is not stored spread evenly",
    "sampled": "KL(stored || teacher): one draw leaves classes out, their average does not",
    "hidden": "KL(teacher || stored), both through the head",
    "full": "KL(teacher || stored)",
}
"""What `reconstruction_kl` is for each codec."""


def reconstruction_kl(
    codec: codecs.Codec,
    fields: Mapping[str, ArrayLike],
    values: ArrayLike,
    head: Head | None = None,
) -> jax.Array:
    """Divergence between the live teacher and what a cache keeps of it, as in `MEANING`.

    Args:
      codec: codec of the cache.
      fields: stored, of N tokens.
      values: the teacher's logits `[N, V]`, or for `hidden` its hidden states `[N, D]`.
      head: the teacher's head, for `hidden`.

    Returns:
      float32 `[N]` in nats, at the codec's temperature.
    """
    decoded, exact = codecs.decode(codec, fields), jnp.asarray(values, jnp.float32)
    if isinstance(codec, codecs.Hidden):
        if head is None:
            raise ConfigError("head: got none, expected the teacher's last projection for `hidden`")
        return forward_kl(project(head, decoded), project(head, exact))
    if isinstance(codec, codecs.Full):
        return forward_kl(decoded, exact)
    exact = exact / codec.temperature
    if isinstance(codec, codecs.TopK):
        return forward_kl(_evenly(decoded, exact.shape), exact)
    at = jnp.take_along_axis(jax.nn.log_softmax(exact), decoded.ids, -1)
    used = decoded.weights > 0
    own = jnp.log(jnp.where(used, decoded.weights, 1.0))
    return jnp.sum(jnp.where(used, decoded.weights * (own - at), 0.0), -1)


def project(head: Head, hidden: ArrayLike) -> jax.Array:
    """Return a frozen head's logits float32 `[..., V]` of hidden states `[..., D]`."""
    return logits_of(jnp.asarray(hidden), head.weights, head.bias, head.constants)


def _evenly(targets: codecs.TopKTargets, shape: tuple[int, ...]) -> jax.Array:
    """Return log-probabilities of all classes `[N, V]`, the tail spread evenly."""
    used = jnp.isfinite(targets.log_probabilities)
    slots = jnp.where(used, targets.ids, shape[-1])
    outside = ~mark_classes(slots, shape)
    each = targets.log_tail - jnp.log(jnp.maximum(jnp.sum(outside, -1), 1).astype(jnp.float32))
    rows = jnp.arange(shape[0])[:, None]
    spread = jnp.where(outside, each[:, None], -jnp.inf)
    return spread.at[rows, slots].set(targets.log_probabilities, mode="drop")
