"""Task losses against float64 references and PyTorch, labels that name no class, wrong versions."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdistill import losses
from jaxdistill.errors import ConfigError, DataError, ModelError

INF = np.inf


def example():
    """Logits [6, 5], labels [6] with three that name no class, a mask that keeps every label."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (6, 5)).astype(np.float32)
    labels = np.array([0, 4, 2, -1, 5, -100], np.int32)
    where = generator.random((6, 5)) < 0.6
    where[np.arange(3), labels[:3]] = True
    where[3:, 1] = True
    return logits, labels, where


def row_cross_entropy(logits: np.ndarray, label: int, smoothing: float) -> float:
    total = math.log(math.fsum(math.exp(x) for x in logits))
    loss = (1 - smoothing) * (total - logits[label])
    return loss + smoothing * math.fsum(total - x for x in logits) / len(logits)


def check_cross_entropy(loss: Callable) -> None:
    logits, labels, where = example()
    for smoothing in (0.0, 0.1):
        for mask in (None, where):
            got = loss(logits, labels, label_smoothing=smoothing, where=mask)
            for row, label in enumerate(labels):
                keep = np.ones(5, bool) if mask is None else mask[row]
                kept = logits[row, keep].astype(np.float64)
                expected = 0.0
                if 0 <= label < 5:
                    expected = row_cross_entropy(kept, int(keep[:label].sum()), smoothing)
                np.testing.assert_allclose(got[row], expected, rtol=1e-5, err_msg=f"row {row}")


@pytest.mark.slow
def test_cross_entropy():
    check_cross_entropy(losses.cross_entropy)
    check_cross_entropy(jax.jit(losses.cross_entropy))  # with a traced label_smoothing


def last_class_for_minus_one(logits, labels, *, label_smoothing=0.0, where=None):
    labels = np.where(labels == -1, 4, labels)
    return losses.cross_entropy(logits, labels, label_smoothing=label_smoothing, where=where)


def nan_for_large_labels(logits, labels, *, label_smoothing=0.0, where=None):
    loss = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing, where=where)
    return jnp.where(labels >= 5, jnp.nan, loss)


def smoothing_forgotten(logits, labels, *, label_smoothing=0.0, where=None):
    return losses.cross_entropy(logits, labels, where=where)


def smoothing_over_masked(logits, labels, *, label_smoothing=0.0, where=None):
    if where is not None:
        logits = jnp.where(where, logits, -1e9)
    return losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def labels_off_by_one(logits, labels, *, label_smoothing=0.0, where=None):
    return losses.cross_entropy(logits, labels + 1, label_smoothing=label_smoothing, where=where)


@pytest.mark.parametrize(
    "mutant",
    [
        last_class_for_minus_one,
        nan_for_large_labels,
        smoothing_forgotten,
        smoothing_over_masked,
        labels_off_by_one,
    ],
)
def test_wrong_cross_entropies_are_caught(mutant):
    with pytest.raises(AssertionError):
        check_cross_entropy(mutant)


def test_labels_without_a_class_have_no_gradient_and_are_counted():
    logits, labels, _ = example()
    gradient = jax.jit(jax.grad(lambda x: losses.cross_entropy(x, labels).sum()))(logits)
    p = np.asarray(jax.nn.softmax(logits))
    expected = np.where((np.arange(6) < 3)[:, None], p - (np.arange(5) == labels[:, None]), 0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert losses.valid_labels(labels, 5).tolist() == [True] * 3 + [False] * 3
    assert losses.valid_labels(np.array([[0, 255]], np.uint8), 300).all()
    with pytest.raises(DataError, match="labels: got dtype float32, expected integers"):
        losses.valid_labels(np.zeros(3, np.float32), 5)


@pytest.mark.slow
def test_cross_entropy_of_tokens_and_other_axes():
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 7)).astype(np.float32)
    labels = generator.integers(0, 7, (2, 3))
    moved = np.moveaxis(logits, -1, 1)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(moved), torch.tensor(labels), reduction="none", label_smoothing=0.2
    )
    for axis, x in ((-1, logits), (1, moved)):
        got = losses.cross_entropy(x, labels, label_smoothing=0.2, axis=axis)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cross_entropy_of_absent_and_masked_classes():
    logits = np.array([[1, -INF, 0.5], [1, -INF, 0.5], [1, 2, np.nan], [1, 2, 0]], np.float32)
    labels = np.array([0, 1, 1, 2])
    where = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)

    def total(x, smoothing):
        values = losses.cross_entropy(x, labels, where=where, label_smoothing=smoothing)
        return values.sum(), values

    for smoothing in (0.0, 0.3):
        gradient, values = jax.jit(jax.grad(total, has_aux=True))(logits, smoothing)
        # A padding class at -inf does not make the smoothing infinite; as a label it is.
        two = np.array([1, 0.5])
        expected = [row_cross_entropy(two, 0, smoothing), INF]
        expected += [row_cross_entropy(np.array([1.0, 2.0]), 1, smoothing), 0]
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        assert np.isfinite(gradient).all()
        assert not gradient[3].any()
        assert gradient[2, 2] == 0


@pytest.mark.slow
def test_cross_entropy_extremes():
    logits = np.array([[1e4, -1e4], [1e4, -1e4]])
    for dtype in (jnp.float32, jnp.bfloat16):
        values = losses.cross_entropy(jnp.asarray(logits, dtype), np.array([0, 1]))
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, [0, 2e4], rtol=5e-3 if dtype == jnp.bfloat16 else 1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_multilabel(masked):
    torch = pytest.importorskip("torch")
    logits, _, where = example()
    targets = np.random.default_rng(1).random(logits.shape).astype(np.float32).round(1)
    inputs = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        inputs, torch.tensor(targets), reduction="none"
    )
    gradient = torch.autograd.grad(theirs.sum(), inputs)[0].numpy()
    expected = theirs.detach().numpy()
    mask = None
    if masked:
        mask, expected, gradient = where, np.where(where, expected, 0), np.where(where, gradient, 0)
        logits, targets = np.where(where, logits, INF), np.where(where, targets, np.nan)
    loss = jax.jit(losses.multilabel)
    np.testing.assert_allclose(loss(logits, targets, where=mask), expected, rtol=1e-5, atol=1e-7)
    ours = jax.jit(jax.grad(lambda x: losses.multilabel(x, targets, where=mask).sum()))(logits)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_multilabel_extremes():
    logits = jnp.array([-INF, INF, -INF, INF, -INF, 1e4, -1e4, 1e4])
    targets = jnp.array([0, 1, 1, 0, 0.5, 1, 1, 0])
    values = losses.multilabel(logits, targets)
    assert values.tolist() == [0, 0, INF, INF, INF, 0, 1e4, 1e4]
    gradient = jax.jit(jax.grad(lambda x: losses.multilabel(x, targets).sum()))(logits)
    assert gradient.tolist() == [0, 0, 0, 0, 0, 0, -1, 1]
    assert losses.multilabel(jnp.zeros(3, jnp.bfloat16), jnp.ones(3, bool)).dtype == jnp.float32


def test_regression():
    predictions, targets = np.array([1.5, -2, 0], np.float32), np.array([1, 2, 0], np.float32)
    np.testing.assert_allclose(losses.regression(predictions, targets), [0.25, 16, 0])
    # bfloat16 has 8 bits: the square of 1.0078125 - 1 would be lost if it were taken there.
    near = losses.regression(jnp.asarray([1.0078125], jnp.bfloat16), jnp.asarray([1.0]))
    np.testing.assert_allclose(near, 0.0078125**2)


@pytest.mark.slow
def test_gradients_by_finite_differences():
    logits, labels, where = example()
    with jax.enable_x64(True):
        x = jnp.asarray(logits, jnp.float64)

        @jax.jit
        def loss(x, y, smoothing):
            entropy = losses.cross_entropy(x, labels, label_smoothing=smoothing, where=where)
            labelled = losses.multilabel(x, jax.nn.sigmoid(y), where=where)
            return entropy, labelled, losses.regression(x, y)

        check_grads(loss, (x, 2 * x[::-1], 0.1), order=1, modes=["rev"], rtol=1e-5)


def test_wrong_arguments_are_named():
    logits = jnp.ones((2, 3))
    with pytest.raises(ModelError, match=r"labels: got shape \(2, 1\), expected \(2,\)"):
        losses.cross_entropy(logits, jnp.zeros((2, 1), int))
    with pytest.raises(DataError, match="labels: got dtype float32"):
        losses.cross_entropy(logits, jnp.zeros(2))
    with pytest.raises(DataError, match=r"where: got shape \(3,\)"):
        losses.cross_entropy(logits, jnp.zeros(2, int), where=jnp.ones(3, bool))
    for smoothing in (1, 1.0, -0.1, np.nan):
        with pytest.raises(ConfigError, match=r"label_smoothing: got .* \[0, 1\)"):
            losses.cross_entropy(logits, jnp.zeros(2, int), label_smoothing=smoothing)
    with pytest.raises(ModelError, match=r"targets: got shape \(2,\), expected \(2, 3\)"):
        losses.multilabel(logits, jnp.zeros(2))
    with pytest.raises(ModelError, match=r"targets: got shape \(2,\), .* squeeze"):
        losses.regression(jnp.ones((2, 1)), jnp.ones(2))
