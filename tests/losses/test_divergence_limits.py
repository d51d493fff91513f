"""Divergences where others break: -inf, masks, huge logits, low precision, wrong arguments.

Nearly all inputs are [4, 4], so that the tests share one compiled program per loss.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses
from jaxdistill.errors import ConfigError, DataError, ModelError

INF = np.inf
LOWEST = float(np.finfo(np.float32).min)
DIVERGENCES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jsd": losses.jsd,
    "total_variation": losses.total_variation,
}
ALL = {**DIVERGENCES, "mse_logits": losses.mse_logits}


@functools.cache
def compiled(name):
    """One program per loss: temperature and mask are traced, so that tests share it."""

    def total(student, teacher, where, temperature):
        settings = {} if name == "mse_logits" else {"temperature": temperature}
        values = ALL[name](student, teacher, where=where, **settings)
        return values.sum(), values

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 3), has_aux=True))


def value_and_gradients(name, student, teacher, where=None, temperature=1.0):
    """Return the values [N] and the gradients of their sum to both sides."""
    where = np.ones(student.shape, bool) if where is None else where
    (_, values), (*gradients, slope) = compiled(name)(student, teacher, where, temperature)
    assert np.isnan(values).any() or not np.isnan(slope)  # a learned temperature
    return np.asarray(values), [np.asarray(x, np.float32) for x in gradients]


def reference_kl(p_logits, q_logits, temperature):
    """T² KL(p || q) for [N, C] in float64, absent classes included."""
    p_logits, q_logits = (np.asarray(x, np.float64) / temperature for x in (p_logits, q_logits))
    log_p = p_logits - np.logaddexp.reduce(p_logits, -1, keepdims=True)
    log_q = q_logits - np.logaddexp.reduce(q_logits, -1, keepdims=True)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.exp(log_p) > 0, np.exp(log_p) * (log_p - log_q), 0)
    return temperature**2 * terms.sum(-1)


# Rows of (student, teacher): who has which class.
BOTH, STUDENT, TEACHER, EACH = range(4)
ABSENT = np.array(
    [
        [[1, -INF, 2, 0.5], [0.5, -INF, 0, -1]],
        [[1, -INF, 2, 0.5], [0.5, 1, 0, -1]],
        [[1, 0, 2, 0.5], [0.5, -INF, 0, -1]],
        [[1, -INF, 2, 0.5], [0.5, 1, -INF, -1]],
    ],
    np.float32,
)


@pytest.mark.parametrize("absent", [-INF, LOWEST, -1e30])
def test_absent_classes_have_the_defined_values(absent):
    student, teacher = np.where(np.isinf(ABSENT), np.float32(absent), ABSENT).swapaxes(0, 1)
    expected = {
        "forward_kl": (np.nan, INF, np.nan, INF),
        "reverse_kl": (np.nan, np.nan, INF, INF),
        "mse_logits": ((0.5**2 + 2**2 + 1.5**2) / 3, INF, INF, INF),
    }
    for name in ALL:
        values, gradients = value_and_gradients(name, student, teacher)
        assert not np.isnan(values).any(), name
        assert np.isfinite(gradients).all(), name
        assert (gradients[0][student == np.float32(absent)] == 0).all(), name
        if name in ("jsd", "total_variation"):
            assert (values >= 0).all(), name
            assert (values <= {"jsd": np.log(2), "total_variation": 1}[name]).all(), name
        else:
            wanted = np.array(expected[name], np.float32)
            finite = ~np.isnan(wanted)
            np.testing.assert_allclose(values[finite], wanted[finite], rtol=1e-6)
    # The finite ones: as the float64 sum that skips p = 0.
    student_inf, teacher_inf = ABSENT.swapaxes(0, 1)
    for name, p, q in (
        ("forward_kl", teacher_inf, student_inf),
        ("reverse_kl", student_inf, teacher_inf),
    ):
        values, _ = value_and_gradients(name, student, teacher)
        np.testing.assert_allclose(values, reference_kl(p, q, 1.0), rtol=1e-5)


def test_gradient_where_the_student_cannot_reach_is_that_of_the_classes_it_can():
    """T (q P - p) over the classes the student has, P their mass at the teacher; 0 elsewhere."""
    _, (gradients, _) = value_and_gradients("forward_kl", ABSENT[:, 0], ABSENT[:, 1])
    student, teacher = np.asarray(jax.nn.softmax(ABSENT[STUDENT], -1))
    mass = 1 - teacher[1]
    expected = student * mass - teacher
    expected[1] = 0
    np.testing.assert_allclose(gradients[STUDENT], expected, rtol=1e-5)


def test_reverse_kl_pushes_mass_out_of_classes_the_teacher_does_not_have():
    values, (gradients, _) = value_and_gradients("reverse_kl", ABSENT[:, 0], ABSENT[:, 1])
    assert values[TEACHER] == INF
    assert gradients[TEACHER, 1] > 0  # descending lowers the logit
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("name", ALL)
def test_masked_classes_are_as_sliced_whatever_they_hold(name):
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(0, 3, (2, 4, 6)).astype(np.float32)
    keep = np.array([0, 2, 3, 5])
    where = np.zeros((4, 6), bool)
    where[:, keep] = True
    sliced, sliced_gradients = value_and_gradients(
        name, student[:, keep], teacher[:, keep], temperature=2.0
    )
    for junk in (0.0, 1e30, INF, -INF, np.nan):
        full = [np.where(where, x, np.float32(junk)) for x in (student, teacher)]
        values, gradients = value_and_gradients(name, *full, where=where, temperature=2.0)
        np.testing.assert_allclose(values, sliced, rtol=1e-6)
        for got, expected in zip(gradients, sliced_gradients, strict=True):
            np.testing.assert_allclose(got[:, keep], expected, rtol=1e-5, atol=1e-7)
            assert (got[:, [1, 4]] == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_rows_without_classes(name):
    logits = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    where = np.ones((4, 4), bool)
    where[1] = False
    values, gradients = value_and_gradients(name, *logits, where=where)
    assert (values > 0).tolist() == [True, False, True, True]
    assert values[1] == 0
    for gradient in gradients:
        assert (gradient != 0).any(-1).tolist() == [True, False, True, True]

    student, teacher = logits
    student[[0, 1]] = -INF
    teacher[[0, 2]] = -INF
    values, gradients = value_and_gradients(name, student, teacher)
    only_student = INF if name == "mse_logits" else 0
    assert values[:3].tolist() == [0, INF, only_student]
    assert np.isfinite(gradients).all()
    assert not gradients[0][:3].any()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, jnp.float32) for name in DIVERGENCES), ("forward_kl", jnp.float16)],
)
def test_huge_logits(name, dtype):
    generator = np.random.default_rng(0)
    levels = [-1e4, -3.0, 0.0, 2.0, 1e4]
    for temperature in (0.1, 1.0, 100.0):
        for _ in range(5):
            student, teacher = generator.choice(levels, (2, 4, 4)).astype(dtype)
            values, gradients = value_and_gradients(name, student, teacher, None, temperature)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            assert np.isfinite(gradients).all()
            pair = {"forward_kl": (teacher, student), "reverse_kl": (student, teacher)}.get(name)
            if pair is not None:
                expected = reference_kl(*pair, temperature)
                np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_equal_logits_are_zero_with_zero_gradient(name):
    logits = np.random.default_rng(0).normal(0, 30, (4, 4)).astype(np.float32)
    values, gradients = value_and_gradients(name, logits, logits)
    np.testing.assert_allclose(values, 0, atol=1e-7)
    np.testing.assert_allclose(gradients[0], 0, atol=1e-6)


def test_nan_of_a_kept_class_is_not_hidden():
    student = np.zeros((4, 4), np.float32)
    student[0, 1], student[1, 1] = np.nan, INF
    teacher = np.array([[0.0, 1.0, 2.0, -INF]] * 4, np.float32)
    for name in DIVERGENCES:
        values, _ = value_and_gradients(name, student, teacher)
        assert np.isnan(values).tolist() == [True, True, False, False], name


def cross_entropy_minus_entropy(student, teacher):
    """The defect: two nearly equal sums, each rounded to the dtype of the logits."""
    p = jax.nn.softmax(teacher)
    cross_entropy = -jnp.sum(p * jax.nn.log_softmax(student), -1)
    return cross_entropy - -jnp.sum(p * jax.nn.log_softmax(teacher), -1)


@pytest.mark.slow
def test_bfloat16_logits_keep_the_divergence():
    generator = np.random.default_rng(3)
    teacher = jnp.asarray(generator.normal(0, 1, (64, 512)), jnp.bfloat16)
    student = (teacher + generator.normal(0, 0.18, (64, 512))).astype(jnp.bfloat16)
    expected = reference_kl(np.asarray(teacher, float), np.asarray(student, float), 1.0)
    assert expected.min() > 0.01
    assert expected.max() < 0.03
    got, (gradient, _) = value_and_gradients("forward_kl", student, teacher)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert (cross_entropy_minus_entropy(student, teacher) == 0).any()
    p, q = (jax.nn.softmax(x.astype(jnp.float32)) for x in (teacher, student))
    np.testing.assert_allclose(gradient, q - p, rtol=1e-2, atol=1e-6)  # rounded to bfloat16


@pytest.mark.parametrize("name", ALL)
def test_nothing_broadcasts(name):
    loss, ones = ALL[name], jnp.ones
    with pytest.raises(ModelError, match=r"teacher_logits: got shape \(1, 3\), expected \(2, 3\)"):
        loss(ones((2, 3)), ones((1, 3)))
    with pytest.raises(ModelError, match="same order"):
        loss(ones((2, 151936)), ones((2, 152064)))
    with pytest.raises(DataError, match=r"where: got shape \(3,\), expected \(2, 3\)"):
        loss(ones((2, 3)), ones((2, 3)), where=ones(3, bool))
    with pytest.raises(DataError, match="where: got dtype int32, expected bool"):
        loss(ones((2, 3)), ones((2, 3)), where=ones((2, 3), jnp.int32))


@pytest.mark.parametrize("loss", [*DIVERGENCES.values(), losses.bernoulli_kl])
@pytest.mark.parametrize("temperature", [0, -1.0, INF, np.nan, np.float32(0), np.ones(2)])
def test_temperature_is_a_positive_scalar(loss, temperature):
    with pytest.raises(ConfigError, match="temperature: got"):
        loss(jnp.ones((2, 3)), jnp.zeros((2, 3)), temperature=temperature)


@pytest.mark.parametrize("beta", [0, 1, -0.1, 1.5])
def test_beta_is_strictly_inside_and_the_error_names_the_ends(beta):
    with pytest.raises(ConfigError, match=r"beta: got .*forward_kl \(0\) and reverse_kl \(1\)"):
        losses.jsd(jnp.ones((2, 3)), jnp.zeros((2, 3)), beta=beta)
