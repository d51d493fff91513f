"""Metrics of finished predictions: NumPy arrays in, plain numbers out.

scipy is imported on first use, because it starts slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxdistill.errors import DataError, ModelError
from jaxdistill.evaluation import lm_scores

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "multilabel": ("exact_match", "f1"),
    "regression": ("pearson", "spearman", "mse"),
    "language_model": lm_scores.METRICS,
}


def decide(task: str, logits: np.ndarray) -> np.ndarray:
    """Turn logits into predictions.

    Args:
      task: `classification`, `multilabel` or `regression`.
      logits: `[N, C]`; `[N, 1]` or `[N]` for regression.

    Returns:
      Class ids `[N]`, label decisions `[N, C]` (logit above 0), or values `[N]`.

    Raises:
      ModelError: a logit is not a number.
    """
    logits = np.asarray(logits, np.float64)
    broken = int(np.isnan(logits.reshape(len(logits), -1)).any(axis=1).sum())
    if broken:
        raise ModelError(
            f"logits: got NaN in {broken} of {len(logits)} rows, expected numbers; the training "
            "diverged: lower learning_rate, or set clip_norm"
        )
    if task == "multilabel":
        return (logits > 0).astype(np.int64)
    if task == "regression":
        return logits.reshape(len(logits))
    return logits.argmax(axis=-1)


def compute_metrics(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    positive: int | None = None,
) -> dict[str, float]:
    """Compare predictions with labels, or measure a language model's scores.

    `f1` is that of one class or label, else the unweighted mean (`macro`) as scikit-learn takes it:
    over the classes that occur or are predicted, and over all labels of a multi-label task, where
    one that neither occurs nor is predicted counts 0. A correlation in which one side is constant
    is 0.

    Args:
      task: `classification`, `multilabel` or `regression`.
      logits: `[N, C]`; `[N, 1]` or `[N]` for regression.
      labels: `[N]` ids, `[N, C]` zeros and ones, or `[N]` values.
      names: which metrics; all of the task by default (`METRICS`).
      positive: the class or label that `f1` is of; by default class 1 where there are two classes,
        else the mean.

    Raises:
      DataError: no examples, or a metric that the task does not have.
      ModelError: a logit is not a number.
    """
    names = METRICS[task] if names is None else names
    unknown = [name for name in names if name not in METRICS[task]]
    if unknown:
        raise DataError(
            f"metric: got {unknown[0]!r} for task {task!r}, expected one of {list(METRICS[task])}"
        )
    labels = np.asarray(labels)
    if len(labels) == 0 or len(labels) != len(logits):
        raise DataError(
            f"evaluation: got {len(logits)} predictions and {len(labels)} labels, expected the "
            "same number and at least one; give a validation split with examples"
        )
    if task == "language_model":
        return lm_scores.language_metrics(logits, labels, names)
    predictions = decide(task, logits)
    classes = np.asarray(logits).shape[-1]
    if positive is None and task == "classification" and classes == 2:
        positive = 1
    return {name: _metric(name, predictions, labels, classes, positive) for name in names}


def f1_per_class(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return `2 TP / (2 TP + FP + FN)` of each class or label, 0 where it neither is nor is said.

    Args:
      predictions: `[N]` ids or `[N, C]` zeros and ones.
      labels: like `predictions`.
      classes: `C`.
    """
    labels = np.asarray(labels).astype(np.int64)
    if predictions.ndim == 1:
        hits = np.bincount(labels[predictions == labels], minlength=classes)
        said, meant = (np.bincount(ids, minlength=classes) for ids in (predictions, labels))
    else:
        hits, said, meant = (predictions * labels).sum(0), predictions.sum(0), labels.sum(0)
    return 2 * hits / np.maximum(said + meant, 1)


def agreement(student_logits: np.ndarray, teacher_logits: np.ndarray, task: str) -> float:
    """Return how often the student decides as the teacher does.

    The share of equal classes, the share of equal label decisions over all examples and labels,
    Pearson's correlation of the predicted values (0 where one side is constant), or for language
    models the share of positions at which both find the same token likeliest.

    Args:
      student_logits: `[N, C]`.
      teacher_logits: `[N, C]`.
      task: `classification`, `multilabel` or `regression`.
    """
    if task == "language_model":
        return lm_scores.same_tokens(student_logits, teacher_logits)
    student, teacher = decide(task, student_logits), decide(task, teacher_logits)
    if task == "regression":
        return _correlation("pearson", student, teacher)
    return float((student == teacher).mean())


def _matthews(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Correlate classes (Gorodkin 2004, eq. 8, for any number of them); 0 where it is 0 / 0."""
    said, meant = (np.bincount(ids, minlength=classes) for ids in (predictions, labels))
    count = float(len(labels))
    right = float((predictions == labels).sum())
    both = count * right - float(said @ meant)
    spread = (count**2 - float(said @ said)) * (count**2 - float(meant @ meant))
    return both / spread**0.5 if spread > 0 else 0.0


def _correlation(name: str, first: np.ndarray, second: np.ndarray) -> float:
    """Correlate values, or for `spearman` their ranks (ties share the mean rank)."""
    from scipy.stats import rankdata

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    if name == "spearman":
        first, second = rankdata(first), rankdata(second)
    return float(np.corrcoef(first, second)[0, 1])


def _f1(predictions: np.ndarray, labels: np.ndarray, classes: int, positive: int | None) -> float:
    scores = f1_per_class(predictions, labels, classes)
    if positive is not None:
        return float(scores[positive])
    if predictions.ndim == 1:
        scores = scores[np.union1d(predictions, labels.astype(np.int64))]
    return float(scores.mean())


def _metric(
    name: str, predictions: np.ndarray, labels: np.ndarray, classes: int, positive: int | None
) -> float:
    if name == "accuracy":
        return float((predictions == labels).mean())
    if name == "exact_match":
        return float((predictions == labels).all(axis=-1).mean())
    if name == "f1":
        return _f1(predictions, labels, classes, positive)
    if name == "matthews":
        return _matthews(predictions, labels.astype(np.int64), classes)
    labels = labels.reshape(len(labels)).astype(np.float64)
    if name == "mse":
        return float(np.square(predictions - labels).mean())
    return _correlation(name, predictions, labels)
