"""Calibration, intervals and the error of a difference against closed forms."""

import numpy as np
import pytest
from scipy import stats

from jaxdistill.inspect import uncertainty

RANDOM = np.random.default_rng(0)


def _one_hot(ids: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[ids] * 4 - 2


def test_calibration_by_hand():
    # Two bins: three predictions of confidence 0.6 (one right), one of 0.9 (right).
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1])
    found = uncertainty.calibration("classification", np.log(probabilities), labels, bins=4)
    np.testing.assert_array_equal(found.counts, [0, 0, 3, 1])
    assert found.accuracy[2] == pytest.approx(1 / 3)
    assert found.confidence[2] == pytest.approx(0.6)
    assert found.error == pytest.approx(3 / 4 * abs(1 / 3 - 0.6) + 1 / 4 * 0.1)


def test_calibration_of_a_calibrated_classifier_is_small():
    share = RANDOM.uniform(0.05, 0.95, 40_000)
    labels = (RANDOM.uniform(size=share.size) < share).astype(int)
    logits = np.stack([np.log1p(-share), np.log(share)], -1)
    assert uncertainty.calibration("classification", logits, labels).error < 0.01
    assert uncertainty.calibration("classification", 4 * logits, labels).error > 0.1
    single = uncertainty.calibration(
        "multilabel", (logits[:, 1] - logits[:, 0])[:, None], labels[:, None]
    )
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


def test_difference_error_is_paired():
    labels = np.zeros(1000, int)
    alone = np.stack([_one_hot(list(RANDOM.integers(0, 2, 1000)), 2)] * 2)
    # The distilled student repairs 50 of the wrong answers: only these add noise.
    distilled = alone.copy()
    wrong = np.flatnonzero(alone[0].argmax(-1) == 1)[:50]
    distilled[:, wrong] = _one_hot([0], 2)
    error = uncertainty.difference_error("classification", alone, distilled, labels, "accuracy")
    assert error == pytest.approx(np.sqrt(0.05 * 0.95 / 999), rel=1e-6)
    resampled = uncertainty.difference_error("classification", alone, distilled, labels, "matthews")
    assert resampled == 0.0  # a single true class: no correlation either way
    labels[::2] = 1
    pairs = uncertainty.bootstrap(
        lambda rows: float(
            (distilled[0, rows].argmax(-1) == labels[rows]).mean()
            - (alone[0, rows].argmax(-1) == labels[rows]).mean()
        ),
        1000,
    )
    error = uncertainty.difference_error("classification", alone, distilled, labels, "accuracy")
    assert error == pytest.approx(pairs.std(), rel=0.1)
