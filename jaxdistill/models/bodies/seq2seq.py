"""An encoder-decoder: the word table, an encoder, a decoder that reads what it made, a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.bodies.text_encoder import input_ids_of
from jaxdistill.models.family import Options
from jaxdistill.models.layers.attention import segments_of
from jaxdistill.models.layers.basic import Embedding, split_rng
from jaxdistill.models.layers.heads import own_head, projection_weights, token_outputs
from jaxdistill.models.layers.seq2seq_layer import Stack, TwoStacks
from jaxdistill.models.outputs import Head, Outputs

IGNORED = -100  # a label that no loss counts
_FIELDS = ("segment_ids", "attention_mask")


def visible_between(
    queries: jax.Array | None,
    keys: jax.Array | None,
    lengths: tuple[int, int],
    *,
    causal: bool,
) -> jax.Array:
    """Return where a query may look, boolean `[1 or B, 1, T, S]`.

    Args:
      queries, keys: `[B, T]` and `[B, S]`, which text each token belongs to, 0 for padding; without
        `queries`, all may look at every text; without `keys`, all is seen.
      lengths: `(T, S)`.
      causal: whether a query sees nothing behind itself.
    """
    allowed = jnp.ones((1, 1, *lengths), bool)
    if causal:
        allowed = jnp.tril(allowed)
    if keys is not None:
        allowed = allowed & (keys > 0)[:, None, None, :]
        if queries is not None:
            allowed = allowed & (queries[:, :, None] == keys[:, None, :])[:, None]
    return allowed


def shifted_right(labels: jax.Array, *, start_id: int, pad_id: int) -> jax.Array:
    """Return what a decoder reads to predict labels `[B, T]`: those before, behind `start_id`.

    Ignored labels (-100) are read as `pad_id`.
    """
    before = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=start_id)
    return jnp.where(before == IGNORED, pad_id, before).astype(jnp.int32)


class Words(nnx.Module):
    """The word table, shared by both stacks."""

    def __init__(self, shape: TwoStacks, rngs: nnx.Rngs, *, dtype: DTypeLike) -> None:
        self.word = Embedding(
            shape.vocabulary,
            shape.width,
            rngs,
            axes=("vocab", "embed"),
            stddev=shape.factor,
            dtype=dtype,
        )


class EncoderDecoderModel(nnx.Module):
    """The word table, an encoder, a decoder that reads what it made, and a head or none."""

    def __init__(self, shape: TwoStacks, options: Options, rngs: nnx.Rngs) -> None:
        dtype = jnp.dtype(options.dtype)
        self.embeddings = Words(shape, rngs, dtype=dtype)
        self.encoder = Stack(shape, rngs, depth=shape.encoder_depth, decoder=False, dtype=dtype)
        self.decoder = Stack(shape, rngs, depth=shape.decoder_depth, decoder=True, dtype=dtype)
        self.head = own_head(shape, options, rngs, stddev=shape.factor)
        self.shape = shape
        self.options = options

    def last_projection(self) -> Head:
        """Return the projection from the decoder's last hidden state to logits."""
        weights = projection_weights(self.head, self.embeddings.word)
        return Head(weights, scale=self.shape.head_scale)

    def encode(
        self,
        batch: Mapping[str, jax.Array],
        *,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]:
        """Encode `input_ids` `[B, S]`: hidden states, which text each token is of, and taps."""
        ids = input_ids_of(batch, None)
        segments = segments_of(batch)
        mask = visible_between(segments, segments, (ids.shape[1], ids.shape[1]), causal=False)
        encoded, features = self.encoder(
            self.embeddings.word(ids), mask, options=self.options, taps=taps, rng=rng
        )
        return encoded, segments, features

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        rng: jax.Array | None,
        train: bool,
        taps: Sequence[str],
    ) -> Outputs:
        """Run the model on a text batch; dropout draws from `rng`, None in evaluation.

        The batch holds `input_ids` `[B, S]` and `decoder_input_ids` `[B, T]`, or `labels` `[B, T]`
        which are shifted to them. `attention_mask` and `decoder_attention_mask` say what is
        padding, on either side; packed rows have `segment_ids` and `decoder_segment_ids`.

        Taps without a prefix are the decoder's (`embeddings`, `layers.{i}.hidden`, `.attention`
        and `.cross_attention`); those of the encoder start with `encoder.`, its last hidden state
        is `encoder.hidden`.

        Raises:
          ModelError: an unknown tap, or a batch without ids for the encoder or the decoder.
        """
        shape = self.shape
        _check_taps(taps, shape)
        ids = self._decoder_ids(batch)
        rngs = split_rng(rng, 2)
        inside = [tap.removeprefix("encoder.") for tap in taps if tap.startswith("encoder.")]
        encoded, segments, features = self.encode(batch, rng=rngs[0], taps=inside)
        features = {f"encoder.{name}": value for name, value in features.items()}
        own = segments_of(
            {name: batch[f"decoder_{name}"] for name in _FIELDS if f"decoder_{name}" in batch}
        )
        packed = "decoder_segment_ids" in batch
        sizes = (ids.shape[1], encoded.shape[1])
        hidden, found = self.decoder(
            self.embeddings.word(ids),
            visible_between(own, own, (ids.shape[1], ids.shape[1]), causal=True),
            options=self.options,
            taps=[tap for tap in taps if not tap.startswith("encoder.")],
            rng=rngs[1],
            encoded=encoded,
            cross_mask=visible_between(own if packed else None, segments, sizes, causal=False),
        )
        features |= found
        return token_outputs(hidden, features, self.last_projection, self.options)

    def _decoder_ids(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        if "decoder_input_ids" in batch:
            return input_ids_of({"input_ids": batch["decoder_input_ids"]}, None)
        labels = batch.get("labels")
        if labels is None or labels.ndim != 2:
            got = sorted(batch) if labels is None else f"labels of shape {labels.shape}"
            raise ModelError(
                f"batch: got {got}, expected decoder_input_ids or labels of shape [B, T]"
            )
        return shifted_right(labels, start_id=self.shape.start_id, pad_id=self.shape.pad_id)


def _check_taps(taps: Sequence[str], shape: TwoStacks) -> None:
    kinds = ("hidden", "attention")
    known = ["embeddings", "encoder.embeddings", "encoder.hidden"]
    known += [f"encoder.layers.{i}.{kind}" for i in range(shape.encoder_depth) for kind in kinds]
    kinds = (*kinds, "cross_attention")
    known += [f"layers.{i}.{kind}" for i in range(shape.decoder_depth) for kind in kinds]
    for tap in taps:
        if tap not in known:
            raise ModelError(
                f"taps: got {tap!r}, expected one of {known[:3]}, layers.0 to "
                f"layers.{shape.decoder_depth - 1} with .hidden, .attention or .cross_attention, "
                f"or encoder.layers.0 to encoder.layers.{shape.encoder_depth - 1} with .hidden or "
                f".attention.{did_you_mean(tap, known)}"
            )
