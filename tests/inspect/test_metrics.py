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
    assert metrics.compute_metrics("classification", logits[:, :2], labels % 2)["f1"] == (
        pytest.approx(sk.f1_score(labels % 2, logits[:, :2].argmax(-1)))
    )


def test_multilabel_against_sklearn():
    labels = RANDOM.integers(0, 2, (100, 6)).astype(np.float32)
    labels[:, 5] = 0
    logits = RANDOM.normal(size=(100, 6)) + labels
    logits[:, 5] = -1.0  # a label that neither occurs nor is said
    found = metrics.compute_metrics("multilabel", logits, labels)
    expected = sk.f1_score(labels, logits > 0, average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(expected)
    assert found["exact_match"] == pytest.approx(sk.accuracy_score(labels, logits > 0))


def test_one_class_has_no_correlation():
    found = metrics.compute_metrics("classification", np.eye(2)[[0, 0, 1]], np.zeros(3, int))
    assert found["matthews"] == 0.0


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
