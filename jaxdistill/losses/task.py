"""Losses against labels: one class of many, many labels at once, a number. Unreduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdistill.errors import DataError
from jaxdistill.losses.numerics import (
    check_between,
    check_mask,
    check_shape,
    compute_dtype,
    scaled,
    softmax,
)


def valid_labels(labels: ArrayLike, classes: int) -> jax.Array:
    """Say which labels name a class: `0 <= label < classes`.

    `cross_entropy` is 0 on the others, so a step multiplies its weights by this mask and counts
    what is left out: -1 and -100 (ignored tokens), or a label the head has no class for.

    Args:
      labels: integers of any shape.
      classes: number of classes of the head.

    Returns:
      bool, the shape of `labels`.

    Raises:
      DataError: labels are not integers.
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise DataError(
            f"labels: got dtype {labels.dtype}, expected integers that number the classes; "
            "use multilabel or regression for float targets"
        )
    # A small dtype would wrap the number of classes: 300 is 44 in uint8.
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    return (labels >= 0) & (labels < classes)


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cross-entropy of integer labels, `-sum_c y_c log softmax(logits)_c`, per row or token.

    `y = (1 - label_smoothing) onehot(label) + label_smoothing u`, with u uniform over the classes
    that are neither masked nor at -inf (Szegedy et al. 2016, arXiv 1512.00567, section 7); so
    padding classes never make the smoothing infinite.

    Args:
      logits: `[..., C]`, any float dtype; `[B, C]` for classification, `[B, T, V]` for tokens.
      labels: integers `[...]`. A label outside [0, C) gives loss 0 and gradient 0 (see
        `valid_labels`): neither NaN nor the last class.
      label_smoothing: number in [0, 1), or traced.
      axis: the class axis.
      where: bool, the shape of the logits: classes to keep, as if the others were sliced away.

    Returns:
      `[...]` float32 (float64 for float64 logits), in nats. +inf where the label is a masked class
      or its logit is -inf; that row has gradient 0 (without smoothing). A row with all classes
      masked is 0 with gradient 0.

    Raises:
      DataError: labels are not integers, or `where` is not bool or has another shape.
      ModelError: the shape of the labels is not that of the logits without the class axis.
      ConfigError: label_smoothing is out of range.
    """
    check_between(
        "label_smoothing", label_smoothing, 0, 1, "0 turns smoothing off", include_low=True
    )
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    axis = axis % logits.ndim
    rows = logits.shape[:axis] + logits.shape[axis + 1 :]
    fix = f"one label per row of logits {logits.shape} with classes on axis {axis}"
    check_shape("labels", labels, rows, fix)
    valid = valid_labels(labels, logits.shape[axis])
    where = check_mask(where, logits.shape)

    student = softmax(scaled(logits.astype(compute_dtype(logits)), axis=axis, where=where), axis)
    log_probabilities, support = student.log_probabilities, student.support
    # A comparison instead of a gather: it shards over the classes and its transpose is no scatter.
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis)
    is_label = classes == jnp.expand_dims(labels, axis)  # [..., C]
    loss = -jnp.sum(jnp.where(is_label, log_probabilities, 0.0), axis)
    if not (isinstance(label_smoothing, int | float) and label_smoothing == 0):
        smoothing = jnp.asarray(label_smoothing, loss.dtype)
        count = jnp.maximum(jnp.sum(support, axis), 1).astype(loss.dtype)
        uniform = -jnp.sum(jnp.where(support, log_probabilities, 0.0), axis) / count
        loss = (1 - smoothing) * loss + smoothing * uniform
    unreachable = jnp.any(is_label & ~support, axis)
    loss = loss + jax.lax.stop_gradient(jnp.where(unreachable, jnp.inf, 0.0).astype(loss.dtype))
    kept = valid if where is None else valid & jnp.any(where, axis)
    return jnp.where(kept, loss, 0.0)


def multilabel(
    logits: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Binary cross-entropy per label, `-(y log sigmoid(x) + (1 - y) log sigmoid(-x))`.

    Computed as `max(x, 0) - x y + log(1 + exp(-|x|))`, which neither overflows nor cancels.

    Args:
      logits: `[..., C]`, any float dtype.
      targets: same shape, in [0, 1]: bool, integer or float (soft) labels.
      where: bool, same shape: labels to keep (known ones); others are 0 with gradient 0, whatever
        they hold.

    Returns:
      `[..., C]`, not summed over labels. Logits of ±inf are certain: 0 where right, +inf where
      wrong, with gradient 0.

    Raises:
      ModelError: shapes differ.
      DataError: `where` is not bool or has another shape.
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    check_shape("targets", targets, logits.shape, "one 0/1 target per label (the logits' shape)")
    where = check_mask(where, logits.shape)
    dtype = compute_dtype(logits, targets)
    logits, targets = logits.astype(dtype), targets.astype(dtype)
    if where is not None:
        logits, targets = jnp.where(where, logits, 0.0), jnp.where(where, targets, 0.0)
    certain = jnp.isinf(logits)
    x = jnp.where(certain, 0.0, logits)
    loss = jnp.maximum(x, 0.0) - x * targets + jnp.log1p(jnp.exp(-jnp.abs(x)))
    wrong = jnp.where(logits > 0, targets < 1, targets > 0)
    loss = jnp.where(certain, jnp.where(wrong, jnp.inf, 0.0), loss)
    return loss if where is None else jnp.where(where, loss, 0.0)


def regression(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Squared error, `(prediction - target)²`, per element.

    Args:
      predictions: `[B]` (or any shape), any float dtype.
      targets: same shape.

    Returns:
      Same shape, float32 (float64 for float64 inputs), in squared units of the target.

    Raises:
      ModelError: shapes differ; a head of one output gives [B, 1] and must be squeezed to [B].
    """
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    fix = "one target per prediction; squeeze logits [B, 1] to [B]"
    check_shape("targets", targets, predictions.shape, fix)
    dtype = compute_dtype(predictions, targets)
    return jnp.square(predictions.astype(dtype) - targets.astype(dtype))
