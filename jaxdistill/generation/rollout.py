"""Batches whose texts a model goes on with itself: what on-policy distillation learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxdistill.errors import ConfigError, DataError
from jaxdistill.generation.decode import decoder_of, write
from jaxdistill.generation.prompts import check_positions, check_sampling
from jaxdistill.generation.writing import Generated, sampling_of
from jaxdistill.models.family import Model
from jaxdistill.models.layers.attention import segments_of
from jaxdistill.parallel.sharding import mesh_of_step
from jaxdistill.types import Tree

Batch = Mapping[str, jax.Array]
NO_LABEL = -1
_BY_TOKEN = ("input_ids", "attention_mask", "segment_ids", "position_ids", "labels", "loss_mask")


def make_continue(
    model: Model,
    *,
    prompt_tokens: int,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    vocabulary: int | None = None,
) -> Callable[[Tree, Batch, jax.Array], dict[str, jax.Array]]:
    """Make `continue_texts(params, batch, rng) -> batch`: prompts of the data, continued.

    A row's prompt is what stands before its first target, as the question does before an answer;
    where that is one token, as in plain text, it is the first `prompt_tokens` of the row. Of longer
    prompts the last `prompt_tokens` are kept. A packed row gives the prompt of its first text.

    The new batch has the keys and shapes of the old one, so that one compiled step serves both:
    the prompt, padded on the left, what the model wrote, and padding. `loss_mask` is 1 where the
    next token was written by the model and 0 elsewhere; the `labels` are all -1, since no one
    knows what should have been written: cross-entropy takes no part.

    Pure, for use under `jit`. Dropout is off.

    Args:
      model: gives the architecture; its parameters are an argument of what is returned.
      prompt_tokens: at least 1, fewer than a row has.
      max_new_tokens: written at most; None: as many as the row has room for.
      temperature, top_k, top_p, eos_id, pad_id, vocabulary: arguments of `generate`.

    Raises:
      ConfigError: a bad number; when called, rows without room for prompt and text.
      ModelError: a model that is no decoder with a head; when called, one of too few positions.
      DataError: when called, a batch that is no text or that holds what cannot be continued.
    """
    shape, options = decoder_of(model)
    check_sampling(shape, temperature, top_k, top_p, vocabulary)
    for name, value in (("prompt_tokens", prompt_tokens), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: got {value}, expected at least 1")

    def continue_texts(params: Tree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        _check(batch)
        length = batch["input_ids"].shape[1]
        if length <= prompt_tokens:
            raise ConfigError(
                f"prompt_tokens: got {prompt_tokens} for rows of {length} tokens, expected fewer; "
                "use shorter prompts or longer rows"
            )
        room = min(length - prompt_tokens, max_new_tokens or length)
        check_positions(shape, prompt_tokens, room)
        ids, lengths = _prompts(batch, prompt_tokens)
        written = write(
            params,
            ids,
            lengths,
            jnp.int32(room),
            sampling_of(rng, temperature=temperature, top_p=top_p, eos_id=eos_id, pad_id=pad_id),
            shape=shape,
            options=options,
            room=room,
            top_k=None if temperature == 0 else top_k,
            vocabulary=vocabulary,
            mesh=mesh_of_step(),
        )
        return _continued(batch, ids, lengths, written, pad_id)

    return continue_texts


def _check(batch: Batch) -> None:
    """Refuse a batch that is no text, or that holds what is not known of another text."""
    ids = batch.get("input_ids")
    if ids is None or ids.ndim != 2:
        raise DataError("batch: got no input_ids [B, T], expected rows of tokens to continue")
    for name, leaf in batch.items():
        of_rows = name == "weight" and leaf.shape == ids.shape[:1]
        if not of_rows and (name not in _BY_TOKEN or leaf.shape != ids.shape):
            raise DataError(
                f"batch: got {name!r} of shape {leaf.shape}, expected weight [B] and "
                f"{', '.join(_BY_TOKEN)} [B, T]; what a teacher said on the data says nothing on "
                "what the student writes"
            )


def _segments(batch: Batch) -> jax.Array:
    segments = segments_of(batch)
    return jnp.ones_like(batch["input_ids"]) if segments is None else segments


def _prompts(batch: Batch, count: int) -> tuple[jax.Array, jax.Array]:
    """Return each row's prompt `[B, count]`, padded on the left, and its length `[B]`."""
    ids, segments = batch["input_ids"], _segments(batch)
    start = jnp.argmax(segments > 0, axis=1)[:, None]  # [B, 1], 0 in a row of padding
    own = (segments == jnp.take_along_axis(segments, start, axis=1)) & (segments > 0)  # [B, T]
    size = own.sum(1, keepdims=True)
    targets = own & _targets(batch)
    # The first position that predicts a target is the prompt's last.
    length = jnp.where(
        targets.any(1, keepdims=True), jnp.argmax(targets, axis=1)[:, None] + 1 - start, size
    )
    length = jnp.where(length > 1, length, jnp.minimum(size - 1, count))
    length = jnp.maximum(length, 1)
    column = jnp.arange(count, dtype=jnp.int32)[None]
    index = start + length - count + column  # [B, count]
    kept = jnp.minimum(length, count)
    found = jnp.take_along_axis(ids, jnp.clip(index, 0, ids.shape[1] - 1), axis=1)
    return jnp.where(column >= count - kept, found, 0), kept[:, 0].astype(jnp.int32)


def _targets(batch: Batch) -> jax.Array:
    """Return at which positions the next token counts, bool `[B, T]`."""
    if "loss_mask" in batch:
        return batch["loss_mask"] > 0
    labels = batch.get("labels")
    ids = batch["input_ids"]
    return jnp.ones(ids.shape, bool) if labels is None else labels >= 0


def _continued(
    batch: Batch, ids: jax.Array, lengths: jax.Array, written: Generated, pad_id: int
) -> dict[str, jax.Array]:
    """Lay prompts and what was written behind them out as `batch` is."""
    (rows, length), count = batch["input_ids"].shape, ids.shape[1]
    filled = (_segments(batch) > 0).any(1, keepdims=True)
    column = jnp.arange(length, dtype=jnp.int32)[None]
    behind = ((0, 0), (0, length - count - written.tokens.shape[1]))
    own = (column >= count) & (column < count + written.lengths[:, None]) & filled  # [B, T]
    mask = own | ((column >= count - lengths[:, None]) & (column < count) & filled)
    tokens = jnp.pad(jnp.concatenate([ids, written.tokens], axis=1), behind)
    predicts = jnp.pad(own[:, 1:], ((0, 0), (0, 1)))  # where the next token was written
    weight = batch.get("weight", jnp.ones((rows,)))
    whole = {
        "input_ids": jnp.where(mask, tokens, pad_id),
        "attention_mask": mask,
        "segment_ids": mask,
        "position_ids": jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0),
        "labels": jnp.full((rows, length), NO_LABEL),
        "loss_mask": predicts * weight[:, None],
        "weight": weight,
    }
    return {name: whole[name].astype(leaf.dtype) for name, leaf in batch.items()}
