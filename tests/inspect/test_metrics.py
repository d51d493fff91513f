"""Metrics against scikit-learn, scipy and values computed by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxdistill.errors import DataError, ModelError
from jaxdistill.inspect import metrics

RANDOM = np.random.default_rng(0)


def _one_hot(ids: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[ids] * 4 - 2


def test_classification_by_hand():
    labels = np.array([0, 0, 1, 1, 1])
    logits = _one_hot([0, 1, 1, 1, 0], 2)
    found = metrics.compute_metrics("classification", logits, labels)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    # (TP*TN - FP*FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) with 2, 1, 1, 1
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))


def test_classification_of_many_classes_is_macro_over_all_classes():
    labels = RANDOM.integers(0, 4, 200)
    logits = RANDOM.normal(size=(200, 5))  # class 4 never occurs as a label
    found = metrics.compute_metrics("classification", logits, labels)
    predicted = logits.argmax(-1)
    per_class = []
    for c in range(5):
        hits = ((predicted == c) & (labels == c)).sum()
        total = (predicted == c).sum() + (labels == c).sum()
        per_class.append(2 * hits / total if total else 0.0)
    assert found["f1"] == pytest.approx(np.mean(per_class))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["matthews"] == pytest.approx(sk.matthews_corrcoef(labels, predicted))


def test_multilabel_by_hand():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    logits = np.array([[2.0, -1], [-1, -3], [1, 4], [-1, -2]])
    found = metrics.compute_metrics("multilabel", logits, labels)
    assert found["exact_match"] == pytest.approx(3 / 4)
    assert found["f1"] == pytest.approx((1.0 + 2 / 3) / 2)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_regression(shape):
    labels = RANDOM.normal(size=50).astype(np.float32)
    values = (labels + RANDOM.normal(size=50)).astype(np.float32)
    found = metrics.compute_metrics("regression", values.reshape(shape), labels)
    assert found["pearson"] == pytest.approx(np.corrcoef(values, labels)[0, 1], abs=1e-6)
    assert found["spearman"] == pytest.approx(stats.spearmanr(values, labels).statistic)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(labels, values), rel=1e-6)


def test_constant_predictions_have_no_correlation():
    found = metrics.compute_metrics("regression", np.ones((5, 1)), np.arange(5.0))
    assert found["pearson"] == found["spearman"] == 0.0


def test_faults_are_named():
    with pytest.raises(ModelError, match=r"NaN in 1 of 2 rows.*learning_rate"):
        metrics.compute_metrics("classification", np.array([[0, np.nan], [0, 1]]), np.array([0, 1]))
    with pytest.raises(DataError, match="'pearson' for task 'classification'"):
        metrics.compute_metrics("classification", np.ones((1, 2)), np.zeros(1), ["pearson"])
    with pytest.raises(DataError, match="0 predictions"):
        metrics.compute_metrics("classification", np.ones((0, 2)), np.zeros(0))


def test_minus_infinite_logits_are_allowed():
    logits = np.array([[-np.inf, 1.0], [2.0, -np.inf]])
    assert metrics.compute_metrics("classification", logits, np.array([1, 0]))["accuracy"] == 1.0


def test_agreement():
    student, teacher = _one_hot([0, 1, 2, 1], 3), _one_hot([0, 1, 1, 1], 3)
    assert metrics.agreement(student, teacher, "classification") == 0.75
    student, teacher = np.array([[1.0, -1], [1, 1]]), np.array([[3.0, 2], [1, 1]])
    assert metrics.agreement(student, teacher, "multilabel") == 0.75
    values = RANDOM.normal(size=(20, 1))
    assert metrics.agreement(3 * values - 1, values, "regression") == pytest.approx(1.0)


def test_calibration_by_hand():
    # Two bins: three predictions of confidence 0.6 (one right), one of 0.9 (right).
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1])
    found = metrics.calibration("classification", np.log(probabilities), labels, bins=4)
    np.testing.assert_array_equal(found.counts, [0, 0, 3, 1])
    assert found.accuracy[2] == pytest.approx(1 / 3)
    assert found.confidence[2] == pytest.approx(0.6)
    assert found.error == pytest.approx(3 / 4 * abs(1 / 3 - 0.6) + 1 / 4 * 0.1)


def test_calibration_of_a_calibrated_classifier_is_small():
    share = RANDOM.uniform(0.05, 0.95, 40_000)
    labels = (RANDOM.uniform(size=share.size) < share).astype(int)
    logits = np.stack([np.log1p(-share), np.log(share)], -1)
    assert metrics.calibration("classification", logits, labels).error < 0.01
    assert metrics.calibration("classification", 4 * logits, labels).error > 0.1
    single = metrics.calibration(
        "multilabel", (logits[:, 1] - logits[:, 0])[:, None], labels[:, None]
    )
    assert single.error < 0.01


def test_accuracy_interval_is_wilson():
    low, high = metrics.accuracy_interval(0.9, 872)
    z, n, p = 1.959964, 872, round(0.9 * 872) / 872
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert low == pytest.approx(center - half, abs=1e-6)
    assert high == pytest.approx(center + half, abs=1e-6)
    assert metrics.accuracy_interval(1.0, 10).high == 1.0


def test_bootstrap_interval_agrees_with_fisher():
    labels = RANDOM.normal(size=400)
    values = labels + RANDOM.normal(size=400)
    low, high = metrics.metric_interval("regression", values[:, None], labels, "pearson")
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
    error = metrics.difference_error("classification", alone, distilled, labels, "accuracy")
    assert error == pytest.approx(np.sqrt(0.05 * 0.95 / 999), rel=1e-6)
    resampled = metrics.difference_error("classification", alone, distilled, labels, "matthews")
    assert resampled == 0.0  # a single true class: no correlation either way
    labels[::2] = 1
    pairs = metrics.bootstrap(
        lambda rows: float(
            (distilled[0, rows].argmax(-1) == labels[rows]).mean()
            - (alone[0, rows].argmax(-1) == labels[rows]).mean()
        ),
        1000,
    )
    error = metrics.difference_error("classification", alone, distilled, labels, "accuracy")
    assert error == pytest.approx(pairs.std(), rel=0.1)


def test_mean_and_spread():
    assert metrics.mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert metrics.mean_and_spread([1.0]) == (1.0, None)
