"""Tokens written one after the other behind what a model has read, until every row has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxdistill.generation.token_sampling import next_token
from jaxdistill.losses.head import without_padding
from jaxdistill.types import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Generated:
    """What a model wrote behind each prompt.

    Attributes:
      tokens: `[B, new]` int32, `pad_id` behind the end of a row.
      log_probabilities: `[B, new]` float32, of each token under the model itself: its whole softmax
        at temperature 1, whatever temperature, top-k and top-p the token was drawn with; 0 behind
        the end. So a loss on these samples needs no second pass for them, while importance weights
        would need those of the distribution that was drawn from.
      lengths: `[B]` int32, tokens written; the one that ends a row is counted.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    lengths: jax.Array

    @classmethod
    def nothing(cls, rows: int, room: int, pad: jax.Array) -> Generated:
        """Return what stands there before the first token, with space for `room` of them."""
        return cls(
            jnp.full((rows, room), pad),
            jnp.zeros((rows, room), jnp.float32),
            jnp.zeros((rows,), jnp.int32),
        )

    def add(
        self,
        step: jax.Array,
        token: jax.Array,
        logits: jax.Array,
        done: jax.Array,
        *,
        ends: jax.Array,
        pad: jax.Array,
    ) -> tuple[Generated, jax.Array]:
        """Write tokens `[B]` to rows that are not `done` `[B]`; also return which are done now.

        Args:
          step: tokens written so far.
          logits: `[B, V]` that the tokens were chosen by.
          ends: `[E]` tokens that end a row.
          pad: what is written to rows that were done.
        """
        scores = jax.nn.log_softmax(logits, axis=-1)
        own = jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]
        added = Generated(
            self.tokens.at[:, step].set(jnp.where(done, pad, token)),
            self.log_probabilities.at[:, step].set(jnp.where(done, 0.0, own)),
            self.lengths + ~done,
        )
        return added, done | (token[:, None] == ends[None]).any(-1)

    def up_to(self, count: int) -> Generated:
        """Return the first `count` columns."""
        return dataclasses.replace(
            self,
            tokens=self.tokens[:, :count],
            log_probabilities=self.log_probabilities[:, :count],
        )


class Sampling(NamedTuple):
    """How a token is chosen, as arguments of a compiled program.

    Attributes:
      rng: a key for the draws; None takes the likeliest token.
      temperature, top_p: scalars or None, see `next_token`.
      ends: `[E]` int32, tokens that end a row.
      pad: int32 scalar, what stands behind a row's end.
    """

    rng: jax.Array | None
    temperature: ArrayLike | None
    top_p: ArrayLike | None
    ends: ArrayLike
    pad: ArrayLike


class Writing(NamedTuple):
    """What is carried from token to token.

    Attributes:
      step: tokens written so far.
      token: `[B]`, the last of them.
      done: `[B]`, which rows have ended.
      cache: what the model keeps of the text so far.
      written: the tokens.
    """

    step: jax.Array
    token: jax.Array
    done: jax.Array
    cache: Tree
    written: Generated


Read = Callable[[Writing], tuple[jax.Array, Tree]]
"""Reads the last token: the next one's logits `[B, V]`, and the cache with this one in it."""


def sampling_of(
    rng: jax.Array | None,
    *,
    temperature: float,
    top_p: float | None,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
) -> Sampling:
    """Return how tokens are chosen; at temperature 0 there is nothing to draw with."""
    ends, pad = end_tokens(eos_id), np.int32(pad_id)
    if temperature == 0:
        return Sampling(None, None, None, ends, pad)
    part = None if top_p is None else np.float32(top_p)
    return Sampling(rng, np.float32(temperature), part, ends, pad)


def end_tokens(eos_id: int | Sequence[int] | None) -> np.ndarray:
    """Return the tokens that end a row, `[E]` int32."""
    return np.array([] if eos_id is None else eos_id, np.int32).reshape(-1)


def nothing_written(token: jax.Array, room: int, cache: Tree, sampling: Sampling) -> Writing:
    """Return the state before the first token, which stands behind tokens `[B]`."""
    rows = token.shape[0]
    written = Generated.nothing(rows, room, jnp.asarray(sampling.pad))
    return Writing(jnp.int32(0), token, jnp.zeros((rows,), bool), cache, written)


def write_next(
    state: Writing,
    logits: jax.Array,
    sampling: Sampling,
    *,
    top_k: int | None,
    vocabulary: int | None,
) -> Writing:
    """Choose a token by its logits `[B, V]` and write it.

    Args:
      top_k: number of likeliest tokens drawn from, as in `next_token`.
      vocabulary: classes that are tokens, where the head is padded beyond them; None: all.
    """
    step, rng = state.step, sampling.rng
    key = None if rng is None else jax.random.fold_in(rng, step)
    if vocabulary is not None:
        logits = without_padding(logits, vocabulary)
    token = next_token(
        logits, key, temperature=sampling.temperature, top_k=top_k, top_p=sampling.top_p
    )
    ends, pad = jnp.asarray(sampling.ends), jnp.asarray(sampling.pad)
    written, done = state.written.add(step, token, logits, state.done, ends=ends, pad=pad)
    return Writing(step + 1, token, done, state.cache, written)


def write_all(
    state: Writing,
    read: Read,
    limit: jax.Array,
    sampling: Sampling,
    *,
    top_k: int | None,
    vocabulary: int | None = None,
) -> Generated:
    """Go on until every row has ended or has `limit` tokens."""

    def advance(state: Writing) -> Writing:
        logits, cache = read(state)
        state = state._replace(cache=cache)
        return write_next(state, logits, sampling, top_k=top_k, vocabulary=vocabulary)

    return lax.while_loop(
        lambda state: (state.step < limit) & ~state.done.all(), advance, state
    ).written
