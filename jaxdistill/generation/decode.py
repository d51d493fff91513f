"""Text written by a decoder: prompts read once, then token by token from cached keys and values."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np
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
from jaxdistill.generation.writing import (
    Generated,
    Sampling,
    Writing,
    nothing_written,
    sampling_of,
    write_all,
    write_next,
)
from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.bodies.rebuilt import module_of
from jaxdistill.models.family import Model, Options
from jaxdistill.models.layers.decoder_layer import Shape, shape_of
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import check_rows
from jaxdistill.types import Tree


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
      multiple: unit of the lengths compiled for.
      mesh: devices that the parameters lie on and the rows are split over; each process gives all
        rows.

    Raises:
      ConfigError: a bad number, no key to draw with, or rows that do not divide over the mesh.
      DataError: prompts that are misshapen, empty, or hold ids the model does not have.
      ModelError: a model that is no decoder with a head, or has too few positions.
    """
    shape, options = decoder_of(model)
    check_sampling(shape, temperature, top_k, top_p, vocabulary)
    check_writing(max_new_tokens, multiple, temperature, rng)
    ids, lengths = left_padded(prompts_ids, prompt_mask, shape.vocabulary, multiple)
    check_positions(shape, int(lengths.max()), max_new_tokens)
    sampling = sampling_of(rng, temperature=temperature, top_p=top_p, eos_id=eos_id, pad_id=pad_id)
    if mesh is not None:
        check_rows("prompts", len(ids), mesh, setting="generate.batch_size")
        ids, lengths = sharding.place((ids, lengths), sharding.batch_sharding(mesh))
        key = sharding.place(sampling.rng, sharding.replicated(mesh))
        sampling = sampling._replace(rng=key)
    written = write(
        model.params,
        ids,
        lengths,
        np.int32(max_new_tokens),
        sampling,
        shape=shape,
        options=options,
        room=round_up(max_new_tokens, multiple),
        top_k=None if temperature == 0 else top_k,
        vocabulary=vocabulary,
        mesh=mesh,
    )
    return written.up_to(max_new_tokens)


def decoder_of(model: Model) -> tuple[Shape, Options]:
    """Return what a decoder is built from.

    Raises:
      ModelError: the model is no decoder with its `lm` head.
    """
    shape, options = shape_of(model.config), model.options
    if shape is None or options is None or options.head != "lm":
        head = None if options is None else options.head
        raise ModelError(
            f"model: got family {model.family!r} with head {head!r}, expected a decoder with its "
            "'lm' head, such as gpt2 or llama; load it with head='lm'"
        )
    return shape, options


@functools.partial(
    jax.jit, static_argnames=("shape", "options", "room", "top_k", "vocabulary", "mesh")
)
def write(
    params: Tree,
    ids: jax.Array,
    lengths: jax.Array,
    limit: jax.Array,
    sampling: Sampling,
    *,
    shape: Shape,
    options: Options,
    room: int,
    top_k: int | None,
    vocabulary: int | None = None,
    mesh: Mesh | None = None,
) -> Generated:
    """Write at most `limit` tokens, in arrays with space for `room`, behind `[B, P]` prompts.

    What `generate` compiles, for use in a program of one's own: nothing is checked. Prompts are
    padded on the left; `lengths` `[B]` says how many tokens each has. `shape, options` are
    `decoder_of(model)`; `mesh` is that of the program, which distinguishes it from the same one for
    another mesh.
    """
    module = module_of(DecoderModel, shape, options, params)
    start = ids.shape[1]
    choice = {"top_k": top_k, "vocabulary": vocabulary}

    def read(state: Writing) -> tuple[jax.Array, Cache]:
        slot = start + state.step - 1  # of the last token, which the prompt's padding precedes
        position = lengths[:, None] + state.step - 1
        with sharding.few_tokens():
            return read_token(
                module, state.token[:, None], position, slot, start - lengths, state.cache
            )

    with sharding.on_mesh(mesh):
        logits, cache = read_prompts(module, ids, lengths, room - 1)
        state = nothing_written(ids[:, -1], room, cache, sampling)
        state = write_next(state, logits, sampling, **choice)
        return write_all(state, read, limit, sampling, **choice)
