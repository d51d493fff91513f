"""Metrics against scikit-learn, scipy and values computed by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxdistill.errors import DataError, ModelError
from jaxdistill.evaluation import metrics

RANDOM = np.random.default_rng(0)


def _one_hot(ids: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[ids] * 4 - 2


def test_classification_by_hand():
    labels = np.array([0, 0, 1, 1, 1])
    logits = _one_hot([0, 1, 1, 1, 0], 2)
    found = metrics.compute_metrics("classification", logits, labels)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    # (TP*TN - FP*FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) with 2, 1, 1, 1
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))


def _random_ids(random: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and decisions in which some classes never occur, are never said, or neither."""
    rows = int(random.integers(1, 40))
    meant = random.choice(classes, random.integers(1, classes + 1), replace=False)
    said = random.choice(classes, random.integers(1, classes + 1), replace=False)
    labels = random.choice(meant, rows)
    return labels, np.where(random.uniform(size=rows) < 0.5, labels, random.choice(said, rows))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_classes_against_sklearn(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 8))
    labels, said = _random_ids(random, classes)
    logits = _one_hot(said, classes)
    found = metrics.compute_metrics("classification", logits, labels)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
    assert found["matthews"] == pytest.approx(sk.matthews_corrcoef(labels, said))
    if classes == 2:
        expected = sk.f1_score(labels, said, pos_label=1, zero_division=0)
    else:
        expected = sk.f1_score(labels, said, average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(expected)
    for one in range(classes):
        f1 = metrics.compute_metrics("classification", logits, labels, ["f1"], positive=one)["f1"]
        only = sk.f1_score(labels, said, labels=[one], average="macro", zero_division=0)
        assert f1 == pytest.approx(only)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_sets_of_labels_against_sklearn(seed):
    random = np.random.default_rng(seed)
    rows, classes = random.integers(1, 30), random.integers(1, 7)
    labels = (random.uniform(size=(rows, classes)) < random.uniform(size=classes) ** 2) * 1.0
    logits = random.normal(size=(rows, classes)) + random.normal(size=classes)
    found = metrics.compute_metrics("multilabel", logits, labels)
    expected = sk.f1_score(labels, logits > 0, average="macro", zero_division=0)
    if classes == 1:
        expected = sk.f1_score(labels[:, 0], logits[:, 0] > 0, zero_division=0)
    assert found["f1"] == pytest.approx(expected)
    assert found["exact_match"] == pytest.approx((labels == (logits > 0)).all(axis=1).mean())
    last = int(classes) - 1
    only = metrics.compute_metrics("multilabel", logits, labels, ["f1"], positive=last)["f1"]
    assert only == pytest.approx(sk.f1_score(labels[:, last], logits[:, last] > 0, zero_division=0))


def test_what_a_perfect_teacher_reaches():
    perfect = _one_hot([1, 2, 3, 1], 4)  # a class 0 that no row has
    assert metrics.compute_metrics("classification", perfect, np.array([1, 2, 3, 1]))["f1"] == 1.0
    lacking = _one_hot([0, 1, 0], 3)  # a class 2 that is not in validation
    assert metrics.compute_metrics("classification", lacking, np.array([0, 1, 0]))["f1"] == 1.0


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


@pytest.mark.parametrize("seed", range(5))
def test_ties_share_their_rank(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 30) / 2.0
    values = random.integers(0, 5, 30) + labels
    found = metrics.compute_metrics("regression", values[:, None], labels)
    assert found["spearman"] == pytest.approx(stats.spearmanr(values, labels).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(values, labels).statistic)


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
    bent = metrics.agreement(np.exp(values), values, "regression")
    assert bent == pytest.approx(stats.pearsonr(np.exp(values[:, 0]), values[:, 0]).statistic)
