"""Metrics of finished predictions: NumPy arrays in, plain numbers out.

scikit-learn and scipy do the arithmetic; they are imported on first use because they start slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.errors import DataError, ModelError
from jaxdistill.inspect.verdict import mean_and_spread, verdict

__all__ = [
    "METRICS",
    "Calibration",
    "Interval",
    "accuracy_interval",
    "agreement",
    "bootstrap",
    "calibration",
    "compute_metrics",
    "confidences",
    "decide",
    "difference_error",
    "f1_per_class",
    "mean_and_spread",
    "metric_interval",
    "verdict",
]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "multilabel": ("exact_match", "f1"),
    "regression": ("pearson", "spearman", "mse"),
}


class Interval(NamedTuple):
    """A 95 % confidence interval, in the metric's own unit."""

    low: float
    high: float


class Calibration(NamedTuple):
    """Confidence against accuracy over equal-width bins of confidence.

    Attributes:
      confidence: `[bins]`, mean confidence of the predictions in a bin; NaN where it is empty.
      accuracy: `[bins]`, share of them that is right; NaN where the bin is empty.
      counts: `[bins]`, predictions in a bin.
      error: expected calibration error, the count-weighted mean of `|accuracy - confidence|`.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


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
    task: str, logits: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Compare predictions with labels.

    `f1` is that of class 1 where there are two classes, else the unweighted mean over classes
    (`macro`). A correlation in which one side is constant is 0.

    Args:
      task: `classification`, `multilabel` or `regression`.
      logits: `[N, C]`; `[N, 1]` or `[N]` for regression.
      labels: `[N]` ids, `[N, C]` zeros and ones, or `[N]` values.
      names: which metrics; all of the task by default (`METRICS`).

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
    predictions = decide(task, logits)
    classes = np.asarray(logits).shape[-1]
    return {name: _metric(name, task, predictions, labels, classes) for name in names}


def f1_per_class(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return `2 TP / (2 TP + FP + FN)` of each class or label, 0 where it neither is nor is said.

    Args:
      predictions: `[N]` ids or `[N, C]` zeros and ones.
      labels: like `predictions`.
      classes: `C`.
    """
    from sklearn.metrics import multilabel_confusion_matrix

    tables = multilabel_confusion_matrix(labels, predictions, labels=list(range(classes)))
    hits, misses = 2 * tables[:, 1, 1], tables[:, 0, 1] + tables[:, 1, 0]  # [C], [C]
    return hits / np.maximum(hits + misses, 1)


def agreement(student_logits: np.ndarray, teacher_logits: np.ndarray, task: str) -> float:
    """Return how often the student decides as the teacher does.

    The share of equal classes, the share of equal label decisions over all examples and labels,
    or Pearson's correlation of the predicted values (0 where one side is constant).

    Args:
      student_logits: `[N, C]`.
      teacher_logits: `[N, C]`.
      task: `classification`, `multilabel` or `regression`.
    """
    student, teacher = decide(task, student_logits), decide(task, teacher_logits)
    if task == "regression":
        return _correlation("pearson", student, teacher)
    return float((student == teacher).mean())


def confidences(task: str, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probability and decision of what a classifier predicts.

    Returns:
      `(confidence, prediction)`, each `[N]`; each `[N * C]` for multi-label, where a decision
      against a label has the confidence `1 - sigmoid(logit)`.
    """
    from scipy.special import expit, softmax

    logits = np.asarray(logits, np.float64)
    if task == "multilabel":
        return expit(np.abs(logits)).ravel(), decide(task, logits).ravel()
    return softmax(logits, axis=-1).max(axis=-1), decide(task, logits)


def calibration(
    task: str, logits: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> Calibration:
    """Compare confidence and accuracy over equal-width bins.

    `ECE = sum_b (n_b / N) |accuracy_b - confidence_b|`; Guo et al. 2017 (arXiv:1706.04599), eq. 3.

    Args:
      task: `classification` or `multilabel`.
      logits: `[N, C]`.
      labels: `[N]` ids or `[N, C]` zeros and ones.
      bins: number of bins over confidences from 0 to 1.
    """
    confidence, prediction = confidences(task, logits)
    correct = prediction == np.asarray(labels).ravel()
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count, count, np.nan)
    mean_confidence = np.bincount(place, confidence, bins) / filled
    accuracy = np.bincount(place, correct, bins) / filled
    gaps = np.nan_to_num(np.abs(accuracy - mean_confidence))
    return Calibration(mean_confidence, accuracy, count, float((gaps * count).sum() / count.sum()))


def accuracy_interval(accuracy: float, examples: int) -> Interval:
    """Return Wilson's 95 % interval of a share.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
      accuracy: share of right answers, 0 to 1.
      examples: how many were asked.
    """
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * examples), examples).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high))


def bootstrap(
    statistic: Callable[[np.ndarray], float], examples: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Evaluate `statistic` on `resamples` draws of example indices with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife".

    Returns:
      `[resamples]` float64.
    """
    random = np.random.default_rng(seed)
    draws = (random.integers(0, examples, examples) for _ in range(resamples))
    return np.array([statistic(rows) for rows in draws])


def metric_interval(task: str, logits: np.ndarray, labels: np.ndarray, name: str) -> Interval:
    """Return the 95 % interval of a metric over the choice of evaluation examples.

    Wilson's for `accuracy` and `exact_match`; percentiles of a bootstrap otherwise.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if name in ("accuracy", "exact_match"):
        value = compute_metrics(task, logits, labels, [name])[name]
        return accuracy_interval(value, len(labels))
    values = bootstrap(
        lambda rows: compute_metrics(task, logits[rows], labels[rows], [name])[name], len(labels)
    )
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def difference_error(
    task: str, alone: np.ndarray, distilled: np.ndarray, labels: np.ndarray, name: str
) -> float:
    """Return the standard error, over the choice of examples, of what distillation gained.

    The gain is the metric of the distilled students minus that of the students alone, each
    averaged over seeds. Both answer the same examples, so their errors are paired.

    Args:
      alone: logits `[S, N, C]` of the students trained without the teacher.
      distilled: logits `[S, N, C]`.
      labels: `[N]` or `[N, C]`.
      name: the metric.
    """
    labels = np.asarray(labels)
    if name in ("accuracy", "exact_match"):
        gain = _right(task, distilled, labels) - _right(task, alone, labels)
        return float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("nan")

    def gained(rows: np.ndarray) -> float:
        def mean(group: np.ndarray) -> float:
            return float(
                np.mean(
                    [
                        compute_metrics(task, seed[rows], labels[rows], [name])[name]
                        for seed in group
                    ]
                )
            )

        return mean(distilled) - mean(alone)

    return float(bootstrap(gained, len(labels), resamples=300).std(ddof=1))


def _right(task: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how often each example was answered rightly, over seeds: `[N]`."""
    hits = np.stack([decide(task, seed) == labels for seed in logits]).astype(np.float64)
    return (hits.min(axis=-1) if hits.ndim == 3 else hits).mean(axis=0)


def _correlation(name: str, first: np.ndarray, second: np.ndarray) -> float:
    """Correlate values, or for `spearman` their ranks (ties share the mean rank)."""
    from scipy.stats import rankdata

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    if name == "spearman":
        first, second = rankdata(first), rankdata(second)
    return float(np.corrcoef(first, second)[0, 1])


def _metric(
    name: str, task: str, predictions: np.ndarray, labels: np.ndarray, classes: int
) -> float:
    if name == "accuracy":
        return float((predictions == labels).mean())
    if name == "exact_match":
        return float((predictions == labels).all(axis=-1).mean())
    if name == "f1":
        scores = f1_per_class(predictions, labels, classes)
        return float(scores[1] if task == "classification" and classes == 2 else scores.mean())
    if name == "matthews":
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(labels, predictions))
    labels = labels.reshape(len(labels)).astype(np.float64)
    if name == "mse":
        return float(np.square(predictions - labels).mean())
    return _correlation(name, predictions, labels)
