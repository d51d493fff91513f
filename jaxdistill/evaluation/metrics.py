"""Metrics of finished predictions: NumPy arrays in, plain numbers out.

scipy is imported on first use, because it starts slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.errors import DataError, ModelError
from jaxdistill.tasks.registry import task_named


def compute_metrics(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    positive: int | None = None,
) -> dict[str, float]:
    """Compare predictions with labels, by the metrics of a task.

    Args:
      task: the name of a task.
      logits: `[N, C]`, or the scores of the task's `score_step`.
      labels: `[N, ...]`, what the task compares them with.
      names: which metrics; all of the task by default.
      positive: the class or label that `f1` is of, see `f1_of_classes`.

    Raises:
      DataError: no examples, or a metric that the task does not have.
      ModelError: a logit is not a number.
    """
    known = {metric.name: metric for metric in task_named(task).metrics}
    names = list(known) if names is None else names
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"metric: got {unknown[0]!r} for task {task!r}, expected one of {list(known)}"
        )
    labels = np.asarray(labels)
    if len(labels) == 0 or len(labels) != len(logits):
        raise DataError(
            f"evaluation: got {len(logits)} predictions and {len(labels)} labels, expected the "
            "same number and at least one; give a validation split with examples"
        )
    return {
        name: float(function_of(known[name].function)(logits, labels, positive=positive))
        for name in names
    }


def decide(task: str, logits: np.ndarray) -> np.ndarray:
    """Turn logits `[N, C]` into the predictions of a task, see `classes`, `decisions`, `values`.

    Raises:
      ModelError: a logit is not a number.
    """
    return function_of(task_named(task).decide)(logits)


def agreement(student_logits: np.ndarray, teacher_logits: np.ndarray, task: str) -> float:
    """Return how often the student decides as the teacher does, as the task counts it.

    Args:
      student_logits: `[N, C]`.
      teacher_logits: `[N, C]`.
      task: the name of a task.
    """
    return float(function_of(task_named(task).agreement)(student_logits, teacher_logits))


def classes(logits: np.ndarray) -> np.ndarray:
    """Return the likeliest class of each example: int64 `[N]` of `[N, C]`.

    Raises:
      ModelError: a logit is not a number.
    """
    return _numbers(logits).argmax(axis=-1)


def decisions(logits: np.ndarray) -> np.ndarray:
    """Return 1 for each label whose logit is above 0: int64 `[N, C]` of `[N, C]`.

    Raises:
      ModelError: a logit is not a number.
    """
    return (_numbers(logits) > 0).astype(np.int64)


def values(logits: np.ndarray) -> np.ndarray:
    """Return the predicted numbers: float64 `[N]` of `[N, 1]` or `[N]`.

    Raises:
      ModelError: one is not a number.
    """
    return _numbers(logits).reshape(len(logits))


def right_classes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether each example's class is right: bool `[N]`."""
    return classes(logits) == labels


def right_sets(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether all labels of an example are decided rightly: bool `[N]`."""
    return (decisions(logits) == labels).all(axis=-1)


def accuracy(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Return the share of examples whose class is right."""
    return float(right_classes(logits, labels).mean())


def exact_match(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Return the share of examples of which all labels are decided rightly."""
    return float(right_sets(logits, labels).mean())


def f1_of_classes(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Return the F1 of one class, else the unweighted mean (`macro`) as scikit-learn takes it.

    The mean is over the classes that occur or are predicted. Where there are two classes and none
    is named, it is the F1 of class 1.

    Args:
      logits: `[N, C]`.
      labels: `[N]` ids.
      positive: the class that it is of.
    """
    predicted, count = classes(logits), np.asarray(logits).shape[-1]
    scores = f1_per_class(predicted, labels, count)
    if positive is None and count == 2:
        positive = 1
    if positive is not None:
        return float(scores[positive])
    return float(scores[np.union1d(predicted, labels.astype(np.int64))].mean())


def f1_of_labels(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Return the F1 of one label, else the unweighted mean over all labels.

    A label that neither occurs nor is predicted counts 0, as with scikit-learn.

    Args:
      logits: `[N, C]`.
      labels: `[N, C]` zeros and ones.
      positive: the label that it is of.
    """
    scores = f1_per_class(decisions(logits), labels, np.asarray(logits).shape[-1])
    return float(scores.mean() if positive is None else scores[positive])


def f1_per_class(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return `2 TP / (2 TP + FP + FN)` of each class or label, 0 where never labelled or predicted.

    Args:
      predictions: `[N]` ids or `[N, C]` zeros and ones.
      labels: like `predictions`.
      classes: `C`.
    """
    labels = np.asarray(labels).astype(np.int64)
    if predictions.ndim == 1:
        hits = np.bincount(labels[predictions == labels], minlength=classes)
        predicted, meant = (np.bincount(ids, minlength=classes) for ids in (predictions, labels))
    else:
        hits, predicted, meant = (predictions * labels).sum(0), predictions.sum(0), labels.sum(0)
    return 2 * hits / np.maximum(predicted + meant, 1)


def matthews(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Correlate classes (Gorodkin 2004, eq. 8, for any number of them); 0 where it is 0 / 0."""
    predictions, labels = classes(logits), labels.astype(np.int64)
    count = np.asarray(logits).shape[-1]
    predicted, meant = (np.bincount(ids, minlength=count) for ids in (predictions, labels))
    rows = float(len(labels))
    right = float((predictions == labels).sum())
    both = rows * right - float(predicted @ meant)
    spread = (rows**2 - float(predicted @ predicted)) * (rows**2 - float(meant @ meant))
    return both / spread**0.5 if spread > 0 else 0.0


def pearson(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Correlate predicted numbers with labels; 0 where one side is constant."""
    return _correlation(values(logits), _flat(labels))


def spearman(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Correlate ranks (ties share the mean rank); 0 where one side is constant."""
    from scipy.stats import rankdata

    predicted, labels = values(logits), _flat(labels)
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    return _correlation(rankdata(predicted), rankdata(labels))


def mse(logits: np.ndarray, labels: np.ndarray, *, positive: int | None = None) -> float:
    """Return the mean squared error of predicted numbers."""
    return float(np.square(values(logits) - _flat(labels)).mean())


def equal_classes(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return the share of examples that both models give the same class."""
    return float((classes(student_logits) == classes(teacher_logits)).mean())


def equal_decisions(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return the share of equal decisions over all examples and labels."""
    return float((decisions(student_logits) == decisions(teacher_logits)).mean())


def correlated_values(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Return Pearson's correlation of the predicted numbers, 0 where one side is constant."""
    return _correlation(values(student_logits), values(teacher_logits))


def refuse_nan(name: str, values: np.ndarray) -> None:
    """Check what a model says, `[N, ...]`.

    Raises:
      ModelError: a value is not a number.
    """
    broken = int(np.isnan(values.reshape(len(values), -1)).any(axis=1).sum())
    if broken:
        raise ModelError(
            f"{name}: got NaN in {broken} of {len(values)} rows, expected numbers; either the "
            "training diverged (lower learning_rate, or set clip_norm), or the model's weights or "
            "its config.json are damaged (copy them again)"
        )


def _numbers(logits: np.ndarray) -> np.ndarray:
    """Return logits as float64.

    Raises:
      ModelError: one is not a number.
    """
    logits = np.asarray(logits, np.float64)
    refuse_nan("logits", logits)
    return logits


def _flat(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(len(labels)).astype(np.float64)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
