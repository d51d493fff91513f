"""Divergences: gradients by finite differences, other libraries, limits of papers, axes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdistill import losses

DIVERGENCES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jsd": losses.jsd,
    "total_variation": losses.total_variation,
}
ALL = {**DIVERGENCES, "mse_logits": losses.mse_logits}


def example(rows: int = 6, classes: int = 9, dtype: type = np.float32):
    """Student, teacher [N, C] and a mask that keeps at least two classes of each row."""
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(0, 2, (2, rows, classes)).astype(dtype)
    where = generator.random((rows, classes)) < 0.6
    where[:, [0, 3]] = True
    return student, teacher, where


@pytest.mark.parametrize("name", ALL)
def test_gradients_by_finite_differences(name):
    with jax.enable_x64(True):
        student, teacher, where = (jnp.asarray(x) for x in example(2, 5, np.float64))

        @jax.jit
        def loss(student, teacher, temperature):
            settings = {"temperature": temperature} if name in DIVERGENCES else {}
            if name == "jsd":
                settings["beta"] = temperature / 4
            return ALL[name](student, teacher, where=where, **settings)

        assert loss(student, teacher, 1.0).dtype == jnp.float64
        # All arguments: mutual learning also trains the "teacher", and T may be learned.
        check_grads(loss, (student, teacher, 1.7), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_any_axis_and_leading_shape(name):
    student, teacher, where = example()
    flat = jax.jit(ALL[name])(student, teacher, where=where)
    moved = jax.jit(partial(ALL[name], axis=1))(
        *(np.moveaxis(x.reshape(2, 3, 9), -1, 1) for x in (student, teacher)),
        where=np.moveaxis(where.reshape(2, 3, 9), -1, 1),
    )
    assert moved.shape == (2, 3)
    np.testing.assert_allclose(moved.reshape(6), flat, rtol=1e-5)
    mapped = jax.jit(jax.vmap(lambda s, t, w: ALL[name](s, t, where=w)))(student, teacher, where)
    np.testing.assert_allclose(mapped, flat, rtol=1e-5)


def test_second_derivative_of_forward_kl_is_the_fisher_matrix():
    """T q (1 - q) / T on the diagonal: diag(q) - q qᵀ, whatever the teacher."""
    student, teacher, _ = example(1, 5)
    hessian = jax.jit(jax.hessian(lambda x: losses.forward_kl(x, teacher[0], temperature=3.0)))
    q = np.asarray(jax.nn.softmax(student[0] / 3))
    np.testing.assert_allclose(hessian(student[0]), np.diag(q) - np.outer(q, q), atol=1e-6)


@pytest.mark.slow
def test_near_and_far_terms_are_exact_in_float64():
    """Both sides of the switch between series and plain term, down to differences of 1e-4."""
    with jax.enable_x64(True):
        for difference in (1e-4, 0.01, 0.09, 0.11, 0.5):
            logits = np.array([[0.0, difference]]), np.array([[0.0, 0.0]])
            # p = (1/2, 1/2): KL = log cosh(difference / 2), written so that it does not cancel.
            half = difference / 2
            exact = np.log1p(np.sinh(half / 2) ** 2 * 2)
            np.testing.assert_allclose(losses.forward_kl(*logits), [exact], rtol=1e-11)


@pytest.mark.slow
def test_jsd_direction_is_that_of_the_paper():
    student, teacher, _ = example(dtype=np.float64)
    with jax.enable_x64(True):
        to_forward = np.asarray(losses.jsd(student, teacher, beta=1e-6)) / 1e-6
        to_reverse = np.asarray(losses.jsd(student, teacher, beta=1 - 1e-6)) / 1e-6
        forward = np.asarray(losses.forward_kl(student, teacher))
        reverse = np.asarray(losses.reverse_kl(student, teacher))
    np.testing.assert_allclose(to_forward, forward, rtol=1e-3)
    np.testing.assert_allclose(to_reverse, reverse, rtol=1e-3)
    assert np.abs(forward / reverse - 1).max() > 0.1  # else the directions were not told apart


@pytest.mark.slow
def test_jsd_against_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    student, teacher, _ = example()
    expected = distance.jensenshannon(jax.nn.softmax(teacher), jax.nn.softmax(student), axis=-1)
    np.testing.assert_allclose(losses.jsd(student, teacher), expected**2, rtol=1e-4)


def test_kl_against_torch():
    torch = pytest.importorskip("torch")
    student, teacher, _ = example(rows=4, classes=50)
    temperature = 4.0
    inputs = [torch.tensor(x, requires_grad=True) for x in (student, teacher)]
    logs = [torch.log_softmax(x / temperature, -1) for x in inputs]
    cases = ((losses.forward_kl, logs), (losses.reverse_kl, logs[::-1]))
    for loss, (about, target) in cases:
        theirs = torch.nn.functional.kl_div(about, target, reduction="none", log_target=True)
        theirs = temperature**2 * theirs.sum(-1)
        gradient = torch.autograd.grad(theirs.sum(), inputs[0], retain_graph=True)[0]
        ours = jax.jit(partial(loss, temperature=temperature))
        np.testing.assert_allclose(ours(student, teacher), theirs.detach(), rtol=1e-4)
        our_gradient = jax.jit(jax.grad(lambda x, f=ours: f(x, teacher).sum()))(student)
        np.testing.assert_allclose(our_gradient, gradient, atol=1e-5)


def test_high_temperature_limit_is_half_the_mse_of_centred_logits():
    student, teacher, _ = example()
    centred = [x - x.mean(-1, keepdims=True) for x in (student, teacher)]
    limit = 0.5 * losses.mse_logits(*centred)
    # In float32 this needs terms that do not cancel: the plain sum has no right digit here.
    got = losses.forward_kl(student, teacher, temperature=1e4)
    np.testing.assert_allclose(got, limit, rtol=1e-3)
    plain = jnp.exp(jax.nn.log_softmax(teacher / 1e4)) * (
        jax.nn.log_softmax(teacher / 1e4) - jax.nn.log_softmax(student / 1e4)
    )
    assert np.abs(1e8 * plain.sum(-1) / limit - 1).max() > 0.1


@pytest.mark.slow
def test_bernoulli_kl_is_the_binary_divergence_per_label():
    special = pytest.importorskip("scipy.special")
    student, teacher, where = example()
    loss = jax.jit(losses.bernoulli_kl)
    gradient_of = jax.jit(jax.grad(lambda x, y, t: loss(x, y, temperature=t).sum()))
    for temperature in (0.1, 1.0, 3.0, 100.0):
        x, y = (z.astype(np.float64) / temperature for z in (student, teacher))
        p, q = special.expit(y), special.expit(x)
        ones = p * (special.log_expit(y) - special.log_expit(x))
        zeros = (1 - p) * (special.log_expit(-y) - special.log_expit(-x))
        expected = temperature**2 * (ones + zeros)
        got = loss(student, teacher, temperature=temperature)
        assert got.shape == student.shape
        np.testing.assert_allclose(got, expected, rtol=3e-5, atol=1e-6)
        gradient = jax.grad(lambda x, y, t=temperature: loss(x, y, temperature=t).sum(), argnums=0)(
            student, teacher
        )
        np.testing.assert_allclose(gradient, temperature * (q - p), rtol=1e-4, atol=1e-6)
    masked = loss(student, np.where(where, teacher, np.nan), where=where)
    np.testing.assert_allclose(masked, np.where(where, loss(student, teacher), 0), rtol=1e-6)
    infinity = jnp.array([-jnp.inf, jnp.inf])
    assert (loss(infinity, infinity) == 0).all()
    assert (loss(infinity, -infinity) == jnp.inf).all()
    assert jnp.isfinite(gradient_of(infinity, -infinity, 1.0)).all()
