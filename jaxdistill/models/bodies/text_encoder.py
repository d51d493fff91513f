"""What the text families share: batches, masks, pooling and the model around the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdistill.errors import ModelError
from jaxdistill.models.family import FamilyConfig, Options
from jaxdistill.models.layers.basic import Embedding, Pool, along_last, split_rng
from jaxdistill.models.layers.encoder_layer import check_taps, encode
from jaxdistill.models.layers.heads import ClassificationHead, MaskedLMHead, Pooler
from jaxdistill.models.outputs import Outputs

Batch = Mapping[str, jax.Array]


def check_config(name: str, config: FamilyConfig, *, width: int, heads: int) -> None:
    """Raise ModelError where a text config holds what cannot be built."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if field.name.endswith(("dropout", "dropout_prob", "pdrop")):
            if value is not None and not (number and 0 <= value <= 1):
                raise ModelError(f"{name}.{field.name}: got {value!r}, expected 0 to 1 (or null)")
        elif value is None and "None" in str(field.type):
            continue
        elif type(field.default) is int and field.name != "pad_token_id" and (value or 0) < 1:
            raise ModelError(f"{name}.{field.name}: got {value}, expected at least 1")
    if width % heads:
        raise ModelError(
            f"{name}: got width {width} with {heads} attention heads, expected a multiple of them"
        )
    for field, plain in (
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("position_embedding_type", "absolute"),
        ("pruned_heads", {}),
    ):
        got = config.extra.get(field, plain)
        if got != plain:
            raise ModelError(f"{name}.{field}: got {got!r}, only {plain!r} is supported")


def input_ids_of(batch: Batch, limit: int | None) -> jax.Array:
    """Return `input_ids` `[B, T]`.

    Raises:
      ModelError: they are missing or misshapen, or rows without `position_ids` are longer than
        `limit` positions (None: no table of positions sets a limit).
    """
    if "input_ids" not in batch or batch["input_ids"].ndim != 2:
        got = batch["input_ids"].shape if "input_ids" in batch else sorted(batch)
        raise ModelError(f"batch: got {got}, expected input_ids of shape [B, T]")
    ids = batch["input_ids"]
    if limit is not None and "position_ids" not in batch and ids.shape[1] > limit:
        raise ModelError(
            f"input_ids: got rows of {ids.shape[1]} tokens, expected at most {limit}, the model's "
            "number of positions; truncate the text"
        )
    return ids


def positions_of(table: Embedding, batch: Batch, length: int) -> jax.Array:
    """Embed the positions of a batch, from 0 in each example: `[1 or B, T, D]`."""
    if "position_ids" in batch:
        return table(batch["position_ids"])
    return table.table[...][None, :length]


def token_types_of(table: Embedding, batch: Batch) -> jax.Array:
    """Embed `token_type_ids`, type 0 where there are none: `[1 or B, 1 or T, D]`."""
    types = batch.get("token_type_ids")
    rows = table.table[...]
    if types is None:
        return rows[None, :1]
    if rows.shape[0] != 2:
        return table(types)
    # A choice of two instead of a look-up: its gradient is a sum, not a scatter token by token.
    first, second = along_last(rows[0], 3), along_last(rows[1], 3)
    types = types[:, :, None]
    known = jnp.where(types == 0, first, jnp.where(types == 1, second, jnp.nan))
    return known.astype(table.dtype)


def attention_mask_of(batch: Batch) -> jax.Array | None:
    """Return where attention is allowed, `[B, 1, 1, T]`, `[B, 1, T, T]` when packed, or None."""
    segments = batch.get("segment_ids")
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
        return same[:, None]
    mask = batch.get("attention_mask")
    return None if mask is None else (mask > 0)[:, None, None, :]


def pool_of(batch: Batch) -> Pool:
    """Return which tokens a classification head reads.

    Raises:
      ModelError: packed rows without `pool_rows` and `pool_columns`, or these without segments.
    """
    fields = [name for name in ("segment_ids", "pool_rows", "pool_columns") if name in batch]
    if not fields:
        return Pool()
    if len(fields) < 3:
        raise ModelError(
            f"batch: got {fields}, expected segment_ids, pool_rows and pool_columns together"
        )
    # Rows count within a device's share under pmap; under jit this changes nothing.
    rows = batch["pool_rows"] % batch["input_ids"].shape[0]
    return Pool(rows, batch["pool_columns"])


def mean_of_tokens(hidden: jax.Array, batch: Batch, pool: Pool) -> jax.Array:
    """Average `[B, T, D]` over each example's valid tokens, in float32: `[N, D]`."""
    if pool.rows is not None and pool.columns is not None:
        segments = batch["segment_ids"]
        own = segments[pool.rows, pool.columns]  # [N]
        valid = (segments[pool.rows] == own[:, None]) & (own > 0)[:, None]  # [N, T]
    elif "attention_mask" in batch:
        valid = batch["attention_mask"] > 0
    else:
        valid = jnp.ones(hidden.shape[:2], bool)
    weight = valid.astype(jnp.float32)
    total = jnp.einsum("nt,ntd->nd", weight, pool.context(hidden).astype(jnp.float32))
    return total / jnp.maximum(weight.sum(-1, keepdims=True), 1.0)


def pooled_vector(
    hidden: jax.Array, batch: Batch, *, pooling: str, pool: Pool, reduced: bool
) -> jax.Array:
    """Pool the last hidden state, `[B, T, D]` or already `reduced` `[N, 1, D]`, to `[N, D]`."""
    if pooling == "mean":
        return mean_of_tokens(hidden, batch, pool).astype(hidden.dtype)
    return (hidden if reduced else pool.tokens(hidden))[:, 0]


class TextModel(nnx.Module):
    """Embeddings, stacked layers, and a classification, a masked-LM or no head.

    Attributes:
      embeddings: `(batch, rng) -> [B, T, D]`, with the word table in `embeddings.word.table`.
      layers: one module whose parameters are stacked on a leading axis of size `depth`.
      pooler: what makes the pooled vector of the first token, or None to take it as it is.
      pooled: whether the pooled vector exists without a classification head.
    """

    def __init__(
        self,
        *,
        embeddings: nnx.Module,
        layers: nnx.Module,
        pooler: Pooler | None,
        head: ClassificationHead | MaskedLMHead | None,
        depth: int,
        options: Options,
        pooled: bool = False,
    ) -> None:
        self.embeddings: Any = embeddings
        self.layers = layers
        self.pooler = pooler
        self.head = head
        self.depth = depth
        self.options = options
        asked = head is None and options.pooling != "default"
        classifies = isinstance(head, ClassificationHead)
        self.pooled = pooled or pooler is not None or classifies or asked

    def __call__(
        self, batch: Batch, *, rng: jax.Array | None, train: bool, taps: Sequence[str]
    ) -> Outputs:
        """Run the model on a text batch; dropout draws from `rng`, None in evaluation.

        `Outputs.hidden` is what the last projection reads: `[N, D]` with a classification head,
        `[B, T, D]` with a masked-LM head; without a head, the last hidden state `[B, T, D]`.

        Raises:
          ModelError: an unknown tap, or a batch whose fields are missing or do not go together.
        """
        head, options = self.head, self.options
        check_taps(taps, self.depth, pooled=self.pooled)
        classify = isinstance(head, ClassificationHead)
        pool = pool_of(batch) if classify or "pooled" in taps else Pool()
        rngs = split_rng(rng, 3)
        embedded = self.embeddings(batch, rngs[0])
        hidden, features, reduced = encode(
            self.layers,
            embedded,
            attention_mask_of(batch),
            depth=self.depth,
            taps=taps,
            rng=rngs[1],
            options=options,
            pool=pool if classify and options.pooling != "mean" else None,
        )
        if "embeddings" in taps:
            features["embeddings"] = embedded
        if isinstance(head, MaskedLMHead):
            return head(hidden, self.embeddings.word.table[...], features)
        vector = pooled_vector(hidden, batch, pooling=options.pooling, pool=pool, reduced=reduced)
        vector = vector if self.pooler is None else self.pooler(vector)
        if "pooled" in taps:
            features["pooled"] = vector
        return (
            head(vector, rngs[2], features) if head is not None else Outputs(None, hidden, features)
        )
