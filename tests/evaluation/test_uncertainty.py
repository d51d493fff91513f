"""Calibration, intervals and the error of a difference against closed forms."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill.evaluation import uncertainty

RANDOM = np.random.default_rng(0)


confidences = uncertainty.class_confidences


def _one_hot(ids: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[ids] * 4 - 2


def test_calibration_by_hand():
    # Two bins: three predictions of confidence 0.6 (one right), one of 0.9 (right).
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1])
    found = uncertainty.calibration(*confidences(np.log(probabilities)), labels, bins=4)
    np.testing.assert_array_equal(found.counts, [0, 0, 3, 1])
    assert found.accuracy[2] == pytest.approx(1 / 3)
    assert found.confidence[2] == pytest.approx(0.6)
    assert found.error == pytest.approx(3 / 4 * abs(1 / 3 - 0.6) + 1 / 4 * 0.1)


def test_calibration_of_a_calibrated_classifier_is_small():
    share = RANDOM.uniform(0.05, 0.95, 40_000)
    labels = (RANDOM.uniform(size=share.size) < share).astype(int)
    logits = np.stack([np.log1p(-share), np.log(share)], -1)
    assert uncertainty.calibration(*confidences(logits), labels).error < 0.01
    assert uncertainty.calibration(*confidences(4 * logits), labels).error > 0.1
    alone = uncertainty.decision_confidences((logits[:, 1] - logits[:, 0])[:, None])
    single = uncertainty.calibration(*alone, labels[:, None])
    assert single.error < 0.01


def test_accuracy_interval_is_wilson():
    low, high = uncertainty.accuracy_interval(0.9, 872)
    z, n, p = 1.959964, 872, round(0.9 * 872) / 872
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert low == pytest.approx(center - half, abs=1e-6)
    assert high == pytest.approx(center + half, abs=1e-6)
    assert uncertainty.accuracy_interval(1.0, 10).high == 1.0


def test_bootstrap_interval_agrees_with_fisher():
    labels = RANDOM.normal(size=400)
    values = labels + RANDOM.normal(size=400)
    low, high = uncertainty.metric_interval("regression", values[:, None], labels, "pearson")
    expected = stats.pearsonr(values, labels).confidence_interval()
    assert low == pytest.approx(expected.low, abs=0.02)
    assert high == pytest.approx(expected.high, abs=0.02)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # Guo et al. 2017, section 2: bins are ((m - 1) / M, m / M].
    found = uncertainty.calibration(*confidences(np.zeros((3, 2))), np.zeros(3, int), bins=2)
    np.testing.assert_array_equal(found.counts, [3, 0])
    certain = np.array([[-1000.0, 1000.0]])
    found = uncertainty.calibration(*confidences(certain), np.ones(1, int), bins=2)
    np.testing.assert_array_equal(found.counts, [0, 1])


def test_a_bootstrap_interval_holds_95_percent():
    labels = RANDOM.normal(size=2000)
    values = labels + RANDOM.normal(size=2000)
    low, high = uncertainty.metric_interval("regression", values[:, None], labels, "mse")
    error = stats.sem(np.square(values - labels))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_difference_error_is_paired():
    labels = np.zeros(1000, int)
    alone = np.stack([_one_hot(list(RANDOM.integers(0, 2, 1000)), 2)] * 2)
    # The distilled student repairs 50 of the wrong answers: only these add noise.
    distilled = alone.copy()
    wrong = np.flatnonzero(alone[0].argmax(-1) == 1)[:50]
    distilled[:, wrong] = _one_hot([0], 2)
    error = uncertainty.difference_error("classification", alone, distilled, labels, "accuracy")
    assert error.examples == pytest.approx(np.sqrt(0.05 * 0.95 / 999), rel=1e-6)
    assert error.interaction == 0.0  # both seeds answer alike


def test_difference_error_of_a_bootstrap_is_that_of_both_arms():
    # The mean squared error is a mean over examples, whose error is known in closed form.
    labels = RANDOM.normal(size=1000)
    alone = labels + RANDOM.normal(size=(3, 1000))
    distilled = labels + 0.7 * RANDOM.normal(size=(3, 1000))
    gains = np.square(distilled - labels) - np.square(alone - labels)  # [S, N]
    error = uncertainty.difference_error(
        "regression", alone[..., None], distilled[..., None], labels, "mse"
    )
    assert error.examples == pytest.approx(stats.sem(gains.mean(0)), rel=0.1)
    assert error.interaction == pytest.approx(_interaction(gains), rel=0.15)


def test_difference_error_of_exact_match_asks_for_all_labels():
    labels = RANDOM.integers(0, 2, (300, 4))
    alone, distilled = RANDOM.normal(size=(2, 3, 300, 4)) + (labels - 0.5) * 4
    right = [((arm > 0) == labels).all(-1).astype(float) for arm in (alone, distilled)]
    gains = right[1] - right[0]
    error = uncertainty.difference_error("multilabel", alone, distilled, labels, "exact_match")
    assert error.examples == pytest.approx(stats.sem(gains.mean(0)))
    assert error.interaction == pytest.approx(_interaction(gains))


def _interaction(gains: np.ndarray) -> float:
    """The residual mean square of a two-way analysis of variance without replication, of `[S, N]`:
    what the mean over all cells inherits of it, as a standard error."""
    seeds, examples = gains.shape
    residual = gains - gains.mean(0) - gains.mean(1, keepdims=True) + gains.mean()
    mean_square = np.square(residual).sum() / ((seeds - 1) * (examples - 1))
    return float(np.sqrt(mean_square / (seeds * examples)))


def test_too_few_examples_have_no_error():
    one = np.zeros((2, 1, 2))
    error = uncertainty.difference_error("classification", one, one, np.zeros(1, int), "accuracy")
    assert np.isnan(error.examples)
