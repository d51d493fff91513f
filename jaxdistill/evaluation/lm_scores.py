"""How well a language model predicts packed rows: what it says of each token, and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdistill import losses
from jaxdistill.engine.mean import Mean
from jaxdistill.evaluation.metrics import refuse_nan
from jaxdistill.models.layers.heads import logits_of
from jaxdistill.models.outputs import Outputs
from jaxdistill.types import Tree

NOTHING = -1.0  # predicted where nothing is to be predicted
_CELLS = 2**25  # logits at a time


def make_score_step(apply: Callable[..., Outputs]) -> Callable[..., tuple[jax.Array, Tree]]:
    """Make `step(params, batch, model_state=None) -> (scores, metrics)` for a language model.

    The scores, float32 `[B, 2 + T]`, hold of each row the sum of its tokens' cross-entropies in
    nats, how many tokens were the likeliest ones, and the likeliest token at each position, -1
    where nothing is to be predicted. The metrics hold the mean cross-entropy as `loss`.
    """

    def step(params: Tree, batch: Mapping[str, jax.Array], model_state: Tree = None):
        extra = {} if model_state is None else {"model_state": model_state}
        outputs = apply(params, batch, rng=None, train=False, **extra)
        labels, mask = batch["labels"], batch["loss_mask"].astype(jnp.float32)
        nats, predictions = token_scores(outputs, labels)
        hits = ((predictions == labels) * mask).sum(1)
        shown = jnp.where(mask > 0, predictions.astype(jnp.float32), NOTHING)
        rows = jnp.concatenate([(nats * mask).sum(1)[:, None], hits[:, None], shown], axis=1)
        return rows, {"loss": Mean.of(nats, mask)}

    return step


def token_scores(outputs: Outputs, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return each label's cross-entropy and the likeliest token, a few columns at a time.

    Args:
      outputs: with logits `[B, T, V]`, or hidden states `[B, T, D]` and a head.
      labels: `[B, T]`; the cross-entropy of one that is no token is 0.

    Returns:
      float32 `[B, T]` in nats, int32 `[B, T]`.
    """
    if outputs.logits is not None:
        return _scores(outputs.logits, labels)
    head, hidden = outputs.head(), outputs.hidden
    assert hidden is not None  # what the head reads
    rows, length, width = hidden.shape
    columns = max(1, min(length, _CELLS // (rows * head.weights.shape[1])))
    parts = -(-length // columns)
    beyond = parts * columns - length
    hidden = jnp.pad(hidden, ((0, 0), (0, beyond), (0, 0))).reshape(rows, parts, columns, width)
    labels = jnp.pad(labels, ((0, 0), (0, beyond)), constant_values=-1)
    labels = labels.reshape(rows, parts, columns)
    found = lax.map(
        lambda part: _scores(logits_of(part[0], head), part[1]),
        (hidden.swapaxes(0, 1), labels.swapaxes(0, 1)),
    )  # [parts, B, columns]
    nats, predictions = (x.swapaxes(0, 1).reshape(rows, -1)[:, :length] for x in found)
    return nats, predictions


def _scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return losses.cross_entropy(logits, labels), jnp.argmax(logits, -1).astype(jnp.int32)


def perplexity(scores: np.ndarray, truth: np.ndarray, *, positive: int | None = None) -> float:
    """Return `exp(nats / tokens)`, at most `exp(700)`.

    Args:
      scores: `[N, 2 + T]`, see `make_score_step`.
      truth: tokens to predict and the bytes they stand for, `[N, 2]`.
      positive: has no part in it.
    """
    nats, _, tokens, _ = _sums(scores, truth)
    # A model that diverged is infinitely perplexed, without a warning.
    return float(np.exp(min(nats / max(tokens, 1), 700.0)))


def bits_per_byte(scores: np.ndarray, truth: np.ndarray, *, positive: int | None = None) -> float:
    """Return `nats / (ln 2 · bytes)`, by which models with other tokenizers can be compared.

    Arguments as of `perplexity`.
    """
    nats, _, _, size = _sums(scores, truth)
    return float(nats / np.log(2) / max(size, 1))


def token_accuracy(scores: np.ndarray, truth: np.ndarray, *, positive: int | None = None) -> float:
    """Return the share of tokens that were the likeliest; arguments as of `perplexity`."""
    _, hits, tokens, _ = _sums(scores, truth)
    return float(hits / max(tokens, 1))


def likeliest_tokens(scores: np.ndarray) -> np.ndarray:
    """Return the likeliest token at each position, -1 where nothing is to be predicted."""
    return scores[:, 2:].astype(np.int64)


def _sums(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    """Return nats, hits, tokens and bytes over all rows.

    Raises:
      ModelError: one is not a number.
    """
    sums = np.asarray(scores, np.float64)[:, :2]
    refuse_nan("cross-entropies", sums)
    nats, hits = sums.sum(0)
    tokens, size = np.asarray(truth, np.float64).sum(0)
    return float(nats), float(hits), float(tokens), float(size)


def same_tokens(scores: np.ndarray, others: np.ndarray) -> float:
    """Return at which share of the positions two models find the same token likeliest."""
    ours, theirs = scores[:, 2:], others[:, 2:]
    asked = ours != NOTHING
    return float((ours == theirs)[asked].mean())


def last_logits(outputs: Outputs) -> jax.Array:
    """Return a model's logits, of the last token only where it did not compute them."""
    if outputs.logits is not None:
        return outputs.logits
    assert outputs.hidden is not None
    return logits_of(outputs.hidden[:, -1:], outputs.head())
