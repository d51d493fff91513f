"""How far a metric can be trusted: intervals, the error of a difference, calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdistill.inspect.metrics import compute_metrics, decide


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
    statistic: Callable[[np.ndarray], float], examples: int, *, resamples: int = 400, seed: int = 0
) -> np.ndarray:
    """Evaluate `statistic` on `resamples` draws of example indices with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife".

    Returns:
      `[resamples]` float64.
    """
    random = np.random.default_rng(seed)
    draws = (random.integers(0, examples, examples) for _ in range(resamples))
    return np.array([statistic(rows) for rows in draws])


def metric_interval(
    task: str, logits: np.ndarray, labels: np.ndarray, name: str, *, positive: int | None = None
) -> Interval:
    """Return the 95 % interval of a metric over the choice of evaluation examples.

    Wilson's for `accuracy` and `exact_match`; percentiles of a bootstrap otherwise. `positive` is
    the label that F1 is of, see `compute_metrics`.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if name in ("accuracy", "exact_match"):
        value = compute_metrics(task, logits, labels, [name])[name]
        return accuracy_interval(value, len(labels))
    values = bootstrap(
        lambda rows: compute_metrics(task, logits[rows], labels[rows], [name], positive=positive)[
            name
        ],
        len(labels),
    )
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def difference_error(
    task: str,
    alone: np.ndarray,
    distilled: np.ndarray,
    labels: np.ndarray,
    name: str,
    *,
    positive: int | None = None,
) -> float:
    """Return the standard error, over the choice of examples, of what distillation gained.

    The gain is the metric of the distilled students minus that of the students alone, each
    averaged over seeds. Both answer the same examples, so their errors are paired.

    Args:
      alone: logits `[S, N, C]` of the students trained without the teacher.
      distilled: logits `[S, N, C]`.
      labels: `[N]` or `[N, C]`.
      name: the metric.
      positive: the label that F1 is of, see `compute_metrics`.
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
                        compute_metrics(task, seed[rows], labels[rows], [name], positive=positive)[
                            name
                        ]
                        for seed in group
                    ]
                )
            )

        return mean(distilled) - mean(alone)

    return float(bootstrap(gained, len(labels)).std(ddof=1))


def _right(task: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how often each example was answered rightly, over seeds: `[N]`."""
    hits = np.stack([decide(task, seed) == labels for seed in logits]).astype(np.float64)
    return (hits.min(axis=-1) if hits.ndim == 3 else hits).mean(axis=0)
