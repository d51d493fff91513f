"""Text written by a decoder: prompts read once, then token by token from cached keys and values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxdistill.errors import ModelError
from jaxdistill.generation.kv_cache import Cache, read_prompts, read_token
from jaxdistill.generation.prompts import (
    check_positions,
    check_sampling,
    check_writing,
    left_padded,
    round_up,
)
from jaxdistill.generation.token_sampling import next_token
from jaxdistill.losses.head import without_padding
from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.family import Model, Options
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import check_rows


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


class _Writing(NamedTuple):
    step: jax.Array  # tokens written so far
    token: jax.Array  # [B] the last of them
    done: jax.Array  # [B]
    cache: Cache
    written: Generated


def generate(
    model: Model,
    prompts_ids: ArrayLike,
    prompt_mask: ArrayLike | None = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: jax.Array | None = None,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    vocabulary: int | None = None,
    multiple: int = 64,
    mesh: Mesh | None = None,
) -> Generated:
    """Let a decoder continue prompts, each row until it ends itself or has `max_new_tokens`.

    One program serves all calls with the same number of rows, the same architecture and the same
    two lengths rounded up to `multiple`: those of the longest prompt and of `max_new_tokens`.
    Parameters, temperature, `top_p` and ids are its arguments. A row's tokens do not depend on the
    other rows' prompts. Dropout is off.

    Args:
      model: a decoder with its `lm` head; for a state in training,
        `dataclasses.replace(model, params=...)`.
      prompts_ids: `[B, P]` token ids, padded on either side.
      prompt_mask: `[B, P]`, above 0 at real tokens; None: all are real.
      max_new_tokens: at least 1.
      temperature: divides the logits; 0: always the likeliest token.
      top_k: draw from that many likeliest tokens only.
      top_p: then from the fewest of them whose probabilities add up to that.
      rng: a key, needed unless `temperature` is 0.
      eos_id: the token that ends a row, or several of them, as chat models have them in the
        `eos_token_id` of their `generation_config.json`; None: no token does. No file is read.
      pad_id: what stands behind a row's end.
      vocabulary: the tokenizer's size, where the head is padded beyond it: those columns are absent
        as if at -inf. None: all are real.
      multiple: of the lengths compiled for.
      mesh: that the parameters lie on and the rows are split over; each process gives all rows.

    Raises:
      ConfigError: a bad number, no key to draw with, or rows that do not divide over the mesh.
      DataError: prompts that are misshapen, empty, or hold ids the model does not have.
      ModelError: a model that is no decoder with a head, or has too few positions.
    """
    shape, options = decoder_of(model)
    check_sampling(shape, temperature, top_k, top_p, vocabulary)
    check_writing(max_new_tokens, multiple, temperature, rng)
    greedy = temperature == 0
    ids, lengths = left_padded(prompts_ids, prompt_mask, shape.vocabulary, multiple)
    check_positions(shape, int(lengths.max()), max_new_tokens)
    key = None if greedy else rng
    if mesh is not None:
        check_rows("prompts", len(ids), mesh, setting="generate.batch_size")
        ids, lengths = sharding.place((ids, lengths), sharding.batch_sharding(mesh))
        key = sharding.place(key, sharding.replicated(mesh))
    written = write(
        model.params,
        ids,
        lengths,
        np.int32(max_new_tokens),
        key,
        temperature=None if greedy else np.float32(temperature),
        top_p=None if greedy or top_p is None else np.float32(top_p),
        ends=end_tokens(eos_id),
        pad=np.int32(pad_id),
        shape=shape,
        options=options,
        room=round_up(max_new_tokens, multiple),
        top_k=None if greedy else top_k,
        vocabulary=vocabulary,
        mesh=mesh,
    )
    return written.up_to(max_new_tokens)


def end_tokens(eos_id: int | Sequence[int] | None) -> np.ndarray:
    """Return the tokens that end a row, `[E]` int32."""
    return np.array([] if eos_id is None else eos_id, np.int32).reshape(-1)


def decoder_of(model: Model) -> tuple[Shape, Options]:
    """Return what a decoder is built from.

    Raises:
      ModelError: the model is no decoder with its `lm` head.
    """
    shape, options = getattr(model.config, "shape", None), model.options
    if not isinstance(shape, Shape) or options is None or options.head != "lm":
        head = None if options is None else options.head
        raise ModelError(
            f"model: got family {model.family!r} with head {head!r}, expected a decoder with its "
            "'lm' head, such as gpt2 or llama; load it with head='lm'"
        )
    return shape, options


@functools.lru_cache(maxsize=32)
def _graph(shape: Shape, options: Options) -> Any:
    """Return the structure of that decoder, which parameters are put in."""
    module = nnx.eval_shape(lambda: DecoderModel(shape, options, nnx.Rngs(0)))
    return nnx.split(module)[0]


@functools.partial(
    jax.jit, static_argnames=("shape", "options", "room", "top_k", "vocabulary", "mesh")
)
def write(
    params: Any,
    ids: jax.Array,
    lengths: jax.Array,
    limit: jax.Array,
    rng: jax.Array | None,
    *,
    temperature: jax.Array | None,
    top_p: jax.Array | None,
    ends: jax.Array,
    pad: jax.Array,
    shape: Shape,
    options: Options,
    room: int,
    top_k: int | None,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> Generated:
    """Write at most `limit` tokens, in arrays with space for `room`, behind `[B, P]` prompts.

    What `generate` compiles, for use in a program of one's own: nothing is checked. Prompts are
    padded on the left; `lengths` `[B]` says how many tokens each has. `temperature` None takes the
    likeliest token; `ends` is `end_tokens(eos_id)`; `shape, options` are `decoder_of(model)`;
    `mesh` is that of the program, by which it is told from the same one for another mesh.
    """
    module: DecoderModel = nnx.merge(_graph(shape, options), params)
    rows, start = ids.shape

    def choose(logits: jax.Array, step: jax.Array, before: jax.Array, cache: Cache, old: Generated):
        key = None if rng is None else jax.random.fold_in(rng, step)
        if vocabulary is not None:
            logits = without_padding(logits, vocabulary)
        token = next_token(logits, key, temperature=temperature, top_k=top_k, top_p=top_p)
        written, done = old.add(step, token, logits, before, ends=ends, pad=pad)
        return _Writing(step + 1, token, done, cache, written)

    def unfinished(state: _Writing) -> jax.Array:
        return (state.step < limit) & ~state.done.all()

    def advance(state: _Writing) -> _Writing:
        slot = start + state.step - 1  # of the last token, which the prompt's padding precedes
        position = lengths[:, None] + state.step - 1
        with sharding.few_tokens():
            logits, cache = read_token(
                module, state.token[:, None], position, slot, start - lengths, state.cache
            )
        return choose(logits, state.step, state.done, cache, state.written)

    with sharding.on_mesh(mesh):
        nothing = Generated.nothing(rows, room, pad)
        logits, cache = read_prompts(module, ids, lengths, room - 1)
        first = choose(logits, jnp.int32(0), jnp.zeros((rows,), bool), cache, nothing)
        return lax.while_loop(unfinished, advance, first).written
