"""Text written by an encoder-decoder: the source read once, then token by token from caches."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxdistill.errors import ModelError
from jaxdistill.generation.prompts import check_sampling, check_writing, checked_ids, round_up
from jaxdistill.generation.writing import (
    Generated,
    Sampling,
    Writing,
    nothing_written,
    sampling_of,
    write_all,
)
from jaxdistill.models.bodies.rebuilt import module_of
from jaxdistill.models.bodies.seq2seq import EncoderDecoderModel
from jaxdistill.models.family import Model, Options
from jaxdistill.models.layers.attention import attend_causally
from jaxdistill.models.layers.basic import run_layers
from jaxdistill.models.layers.heads import logits_of
from jaxdistill.models.layers.seq2seq_layer import Memory, StackLayer, TwoStacks
from jaxdistill.types import Tree


def generate_from_source(
    model: Model,
    source_ids: ArrayLike,
    source_mask: ArrayLike | None = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: jax.Array | None = None,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    multiple: int = 64,
) -> Generated:
    """Let an encoder-decoder write a target for each source, as `generate` lets a decoder continue.

    One program serves all calls with the same number of rows, the same architecture, and the
    lengths of the sources and `max_new_tokens` rounded up to the same multiples. The token that
    targets start with is not among those returned.

    Args:
      model: an encoder-decoder with its `lm` head, such as t5.
      source_ids: `[B, S]` token ids, padded on either side.
      source_mask: `[B, S]`, above 0 at real tokens; None: all are real.
      max_new_tokens, temperature, top_k, top_p, rng, eos_id, pad_id, multiple: arguments of
        `generate`.

    Raises:
      ConfigError: a bad number, or no key to draw with.
      DataError: sources that are misshapen, empty, or hold ids the model does not have.
      ModelError: a model that is no encoder-decoder with a head.
    """
    shape, options = getattr(model.config, "stacks", None), model.options
    if not isinstance(shape, TwoStacks) or options is None or options.head != "lm":
        head = None if options is None else options.head
        raise ModelError(
            f"model: got family {model.family!r} with head {head!r}, expected an encoder-decoder "
            "with its 'lm' head, such as t5; for a decoder use generate"
        )
    check_sampling(shape, temperature, top_k, top_p, None)
    check_writing(max_new_tokens, multiple, temperature, rng)
    ids, mask = checked_ids("sources", source_ids, source_mask, shape.vocabulary)
    behind = ((0, 0), (0, -ids.shape[1] % multiple))
    written = _write(
        model.params,
        np.pad(np.where(mask, ids, 0), behind).astype(np.int32),
        np.pad(mask, behind).astype(np.int32),
        np.int32(max_new_tokens),
        sampling_of(rng, temperature=temperature, top_p=top_p, eos_id=eos_id, pad_id=pad_id),
        shape=shape,
        options=options,
        room=round_up(max_new_tokens, multiple),
        top_k=None if temperature == 0 else top_k,
    )
    return written.up_to(max_new_tokens)


@functools.partial(jax.jit, static_argnames=("shape", "options", "room", "top_k"))
def _write(
    params: Tree,
    ids: jax.Array,
    mask: jax.Array,
    limit: jax.Array,
    sampling: Sampling,
    *,
    shape: TwoStacks,
    options: Options,
    room: int,
    top_k: int | None,
) -> Generated:
    """Write at most `limit` tokens, in arrays with space for `room`, from sources `[B, S]`."""
    module = module_of(EncoderDecoderModel, shape, options, params)
    encoded, _, _ = module.encode({"input_ids": ids, "attention_mask": mask})
    memory = _memory(module, encoded)
    rows = ids.shape[0]
    space = (shape.decoder_depth, rows, room, shape.heads, shape.head_width)
    cache = (jnp.zeros(space, encoded.dtype), jnp.zeros(space, encoded.dtype))

    def read(state: Writing) -> tuple[jax.Array, Memory]:
        token = state.token[:, None]
        return _read_token(module, token, state.step, state.cache, memory, mask > 0)

    start = nothing_written(jnp.full((rows,), shape.start_id, jnp.int32), room, cache, sampling)
    return write_all(start, read, limit, sampling, top_k=top_k)


def _memory(module: EncoderDecoderModel, encoded: jax.Array) -> Memory:
    """Return every decoder layer's keys and values of the source, each `[layers, B, S, H, d]`."""

    def step(
        layer: StackLayer, encoded: jax.Array, _: jax.Array | None
    ) -> tuple[jax.Array, Memory]:
        assert layer.cross_attention is not None
        return encoded, layer.cross_attention.memory(encoded)

    stack = module.decoder
    _, memory, _ = run_layers(stack.layers, step, encoded, depth=stack.depth)
    return memory


def _read_token(
    module: EncoderDecoderModel,
    token: jax.Array,
    position: jax.Array,
    cache: Memory,
    memory: Memory,
    source: jax.Array,
) -> tuple[jax.Array, Memory]:
    """Read one token `[B, 1]` per row: the next one's logits `[B, V]`, and the cache with it."""
    room = cache[0].shape[2]
    bias = module.decoder.position.at(position, room)
    seen = (jnp.arange(room, dtype=jnp.int32) <= position)[None, None, None]

    def step(
        layer: StackLayer, hidden: jax.Array, _: jax.Array | None, own: Tree
    ) -> tuple[jax.Array, Tree]:
        def mix(query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array | None):
            keys, values = (
                lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
                for old, new in zip(own["cache"], (key, value), strict=True)
            )
            mixed, _ = attend_causally(query, keys, values, seen, scale=1.0, bias=bias)
            return mixed, (key, value)

        def cross(query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array | None):
            return attend_causally(query, key, value, source[:, None, None], scale=1.0)

        hidden, new, _ = layer(hidden, mix, cross, memory=own["memory"])
        return hidden, new

    stack = module.decoder
    hidden, news, _ = run_layers(
        stack.layers,
        step,
        module.embeddings.word(token),
        depth=stack.depth,
        unroll=module.options.unroll,
        each={"cache": cache, "memory": memory},
    )
    keys, values = (
        lax.dynamic_update_slice_in_dim(old, new, position, axis=2)
        for old, new in zip(cache, news, strict=True)
    )
    logits = logits_of(stack.norm(hidden), module.last_projection())
    return logits[:, 0], (keys, values)
