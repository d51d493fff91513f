"""The next token from its logits: the likeliest, or a draw with temperature, top-k and top-p."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def candidates(
    scores: jax.Array, top_k: int | None, top_p: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Return the tokens that may be drawn, the likeliest first.

    First the `top_k` highest scores (Fan et al. 2018; of equal ones, the lower ids), then of these
    the fewest whose probability, relative to all `top_k`, adds up to `top_p` (Holtzman et al.
    2020): at least one.

    Args:
      scores: `[B, V]` float32 logits, already divided by the temperature.
      top_k: None or more than `V` for all `V`.
      top_p: above 0 and at most 1, or None.

    Returns:
      Their scores `[B, K]`, `-inf` for those left out by `top_p`, and their ids `[B, K]` int32.
    """
    values, ids = lax.top_k(scores, min(top_k or scores.shape[-1], scores.shape[-1]))
    if top_p is not None:
        probabilities = jax.nn.softmax(values, axis=-1)
        # The mass of likelier tokens, so that the one that crosses `top_p` still counts.
        before = jnp.cumsum(probabilities, axis=-1)[:, :-1]
        # Whatever rounding says, the likeliest stays.
        kept = jnp.pad(before < top_p, ((0, 0), (1, 0)), constant_values=True)
        values = jnp.where(kept, values, -jnp.inf)
    return values, ids.astype(jnp.int32)


def next_token(
    logits: jax.Array,
    rng: jax.Array | None,
    *,
    temperature: ArrayLike | None,
    top_k: int | None,
    top_p: ArrayLike | None,
) -> jax.Array:
    """Choose a token of `[B, V]` float32 logits per row, `[B]` int32.

    Args:
      rng: a key for the draws; not used without `temperature`.
      temperature: above 0, dividing the logits before `candidates`; None: the likeliest token.
      top_k, top_p: arguments of `candidates`; None, both: all tokens.
    """
    if temperature is None or rng is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scores = logits / temperature
    if top_k is None and top_p is None:
        return jax.random.categorical(rng, scores).astype(jnp.int32)
    values, ids = candidates(scores, top_k, top_p)
    choice = jax.random.categorical(rng, values)
    return jnp.take_along_axis(ids, choice[:, None], axis=1)[:, 0]
