"""How far a metric can be trusted: intervals, the error of a difference, calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.evaluation.metrics import classes, compute_metrics, decisions
from jaxdistill.tasks.registry import task_named


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


def class_confidences(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest class of logits `[N, C]` and its probability: `(confidence, class)`."""
    from scipy.special import softmax

    return softmax(np.asarray(logits, np.float64), axis=-1).max(axis=-1), classes(logits)


def decision_confidences(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `(confidence, decision)`, each `[N * C]`, of logits `[N, C]`.

    A decision against a label has the confidence `1 - sigmoid(logit)`.
    """
    from scipy.special import expit

    return expit(np.abs(np.asarray(logits, np.float64))).ravel(), decisions(logits).ravel()


def calibration(
    confidence: np.ndarray, prediction: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> Calibration:
    """Compare confidence and accuracy over equal-width bins.

    `ECE = sum_b (n_b / N) |accuracy_b - confidence_b|`; Guo et al. 2017 (arXiv:1706.04599), eq. 3.

    Args:
      confidence: probability of each prediction, `[P]`, see `class_confidences`.
      prediction: class or decision, `[P]`.
      labels: what is true, with `P` entries in the same order.
      bins: number of bins over confidences from 0 to 1.
    """
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
    statistic: Callable[[np.ndarray], float | np.ndarray],
    examples: int,
    *,
    resamples: int = 400,
    seed: int = 0,
) -> np.ndarray:
    """Evaluate `statistic` on `resamples` draws of example indices with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife".

    Returns:
      float64 `[resamples, …]`, behind it the shape of what `statistic` returns.
    """
    random = np.random.default_rng(seed)
    draws = (random.integers(0, examples, examples) for _ in range(resamples))
    return np.array([statistic(rows) for rows in draws])


def metric_interval(
    task: str, logits: np.ndarray, labels: np.ndarray, name: str, *, positive: int | None = None
) -> Interval:
    """Return the 95 % interval of a metric over the choice of evaluation examples.

    Wilson's for metrics that count right answers, such as `accuracy`; percentiles of a bootstrap
    otherwise. `positive` is the label that F1 is of, see `compute_metrics`.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if task_named(task).metric(name).hits is not None:
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


class GainError(NamedTuple):
    """Standard errors of what distillation gained, over the choice of evaluation examples.

    Attributes:
      examples: the whole of it, from examples that favour one arm in all seeds and from those that
        do so in some seeds only.
      interaction: the latter part, which the spread over seeds holds, too; 0 for a single seed.
    """

    examples: float
    interaction: float


def difference_error(
    task: str,
    alone: np.ndarray,
    distilled: np.ndarray,
    labels: np.ndarray,
    name: str,
    *,
    positive: int | None = None,
) -> GainError:
    """Return the standard error, over the choice of examples, of what distillation gained.

    The gain is the metric of the distilled students minus that of the students alone, each
    averaged over seeds. Both answer the same examples, so their errors are paired. With seeds and
    examples as crossed random effects, the variance of one seed's gain is `b + c` and that of the
    mean of `S` seeds `b + c / S`, which gives both parts (Searle, Casella & McCulloch 1992,
    "Variance components", section 4.3).

    Args:
      alone: logits `[S, N, C]` of the students trained without the teacher.
      distilled: logits `[S, N, C]`.
      labels: `[N]` or `[N, C]`.
      name: the metric.
      positive: the label that F1 is of, see `compute_metrics`.

    Returns:
      The error of the mean gain, NaN for fewer than two examples.
    """
    labels = np.asarray(labels)
    seeds, examples = len(alone), len(labels)
    if examples < 2:
        return GainError(float("nan"), 0.0)
    hits = task_named(task).metric(name).hits
    if hits is not None:
        # The mean over examples needs no draws: its variance is that of one example over N.
        right = function_of(hits)
        ours, others = (
            np.stack([right(seed, labels) for seed in arm]).astype(np.float64)
            for arm in (distilled, alone)
        )
        gains = ours - others  # [S, N]
        scale = 1.0 / examples
    else:

        def measured(logits: np.ndarray, rows: np.ndarray) -> float:
            own = compute_metrics(task, logits[rows], labels[rows], [name], positive=positive)
            return own[name]

        def gained(rows: np.ndarray) -> np.ndarray:
            ours, others = (
                np.array([measured(seed, rows) for seed in arm]) for arm in (distilled, alone)
            )
            return ours - others

        gains = bootstrap(gained, examples).T  # [S, resamples]
        scale = 1.0
    of_mean = float(gains.mean(axis=0).var(ddof=1)) * scale
    of_one = float(gains.var(axis=1, ddof=1).mean()) * scale
    interaction = max(of_one - of_mean, 0.0) / (seeds - 1) if seeds > 1 else 0.0
    return GainError(of_mean**0.5, min(interaction, of_mean) ** 0.5)
