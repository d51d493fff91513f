"""Divergences against float64 references in plain loops, and wrong versions that must be caught.

Every comparison is a function of the loss (`check_forward_kl(loss)`), so that the same check that
passes for ours is seen to fail for each mutant at the end of this file.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses

TEMPERATURES = (0.1, 0.5, 1.0, 2.0, 10.0, 100.0)


# References: float64, one row at a time, straight from the formulas.


def softmax(row: np.ndarray) -> list[float]:
    highest = max(row)
    exponentials = [math.exp(x - highest) for x in row]
    return [x / math.fsum(exponentials) for x in exponentials]


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def row_forward_kl(student, teacher, temperature=1.0):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * kl(p, q)


def row_reverse_kl(student, teacher, temperature=1.0):
    return row_forward_kl(teacher, student, temperature)


def row_jsd(student, teacher, temperature=1.0, beta=0.5):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return temperature**2 * (beta * kl(p, m) + (1 - beta) * kl(q, m))


def row_total_variation(student, teacher, temperature=1.0):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return math.fsum(max(a - b, 0.0) for a, b in zip(p, q, strict=True))


def row_mse_logits(student, teacher):
    return math.fsum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / len(student)


def by_rows(row_loss: Callable, student, teacher, where=None, **settings) -> np.ndarray:
    """Apply a row reference to [N, C], with masked classes really sliced away."""
    keep = np.ones(student.shape, bool) if where is None else where
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    rows = zip(student, teacher, keep, strict=True)
    return np.array([row_loss(s[k], t[k], **settings) for s, t, k in rows])


def example(seed=0, rows=6, classes=9, spread=2.0):
    """Student, teacher [N, C] float32 and a mask that keeps at least two classes of each row."""
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0, spread, (2, rows, classes)).astype(np.float32)
    where = generator.random((rows, classes)) < 0.6
    where[:, [0, 3]] = True
    return student, teacher, where


# Checks: pass for the right loss, raise AssertionError for a wrong one.


def check_values(loss: Callable, row_loss: Callable, settings: list[dict]) -> None:
    student, teacher, where = example()
    loss = jax.jit(loss)
    for setting in settings:
        for mask in (None, where):
            got = loss(student, teacher, where=mask, **setting)
            expected = by_rows(row_loss, student, teacher, mask, **setting)
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6, err_msg=f"{setting}")


AT_TEMPERATURES = [{"temperature": temperature} for temperature in TEMPERATURES]


def check_forward_kl(loss: Callable) -> None:
    """Values at six temperatures with and without a mask, one by hand, and the gradient."""
    check_values(loss, row_forward_kl, AT_TEMPERATURES)
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2).
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    logits = (jnp.zeros((1, 2)), jnp.array([[math.log(3), 0.0]]))
    np.testing.assert_allclose(jax.jit(loss)(*logits), [by_hand], rtol=1e-6)
    student, teacher, _ = example()
    gradient_of = jax.jit(jax.grad(lambda x, t: loss(x, teacher, temperature=t).sum()))
    for temperature in (0.5, 1.0, 4.0):
        gradient = gradient_of(student, temperature)
        p = np.array([softmax(row / temperature) for row in teacher.astype(np.float64)])
        q = np.array([softmax(row / temperature) for row in student.astype(np.float64)])
        np.testing.assert_allclose(gradient, temperature * (q - p), rtol=1e-5, atol=1e-6)


def check_reverse_kl(loss: Callable) -> None:
    check_values(loss, row_reverse_kl, AT_TEMPERATURES)


def check_jsd(loss: Callable) -> None:
    betas = [{"temperature": t, "beta": beta} for t in (0.5, 4.0) for beta in (0.1, 0.5, 0.9)]
    check_values(loss, row_jsd, AT_TEMPERATURES + betas)


def check_total_variation(loss: Callable) -> None:
    check_values(loss, row_total_variation, AT_TEMPERATURES)


def check_mse_logits(loss: Callable) -> None:
    check_values(loss, row_mse_logits, [{}])


CHECKS = {
    "forward_kl": check_forward_kl,
    "reverse_kl": check_reverse_kl,
    "jsd": check_jsd,
    "total_variation": check_total_variation,
    "mse_logits": check_mse_logits,
}


@pytest.mark.parametrize("name", CHECKS)
def test_values(name):
    CHECKS[name](getattr(losses, name))


@pytest.mark.parametrize("name", CHECKS)
def test_without_jit(name):
    student, teacher, where = example()
    loss = getattr(losses, name)
    expected = by_rows(globals()[f"row_{name}"], student, teacher, where)
    np.testing.assert_allclose(loss(student, teacher, where=where), expected, rtol=2e-5)
    if name != "mse_logits":  # a number here, traced in the checks
        static = loss(student, teacher, temperature=3.0)
        expected = by_rows(globals()[f"row_{name}"], student, teacher, temperature=3.0)
        np.testing.assert_allclose(static, expected, rtol=2e-5)


# Mutants: each is a defect seen in a distillation system, and each must fail its check.


def _kl_of_logs(log_p, log_q, where=None):
    terms = jnp.exp(log_p) * (log_p - log_q)
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0), -1)


def without_temperature_squared(student, teacher, *, temperature=1.0, where=None):
    return (
        losses.forward_kl(student, teacher, temperature=temperature, where=where) / temperature**2
    )


def temperature_once(student, teacher, *, temperature=1.0, where=None):
    return losses.forward_kl(student, teacher, temperature=temperature, where=where) / temperature


def swapped(student, teacher, *, temperature=1.0, where=None):
    return losses.forward_kl(teacher, student, temperature=temperature, where=where)


def mask_forgotten(student, teacher, *, temperature=1.0, where=None):
    return losses.forward_kl(student, teacher, temperature=temperature)


def mask_after_softmax(student, teacher, *, temperature=1.0, where=None):
    p, q = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
    return temperature**2 * _kl_of_logs(p, q, where)


def renormalized_over_top_k(student, teacher, *, temperature=1.0, where=None):
    if where is not None:
        student, teacher = (jnp.where(where, x, -1e9) for x in (student, teacher))
    top, index = jax.lax.top_k(jnp.asarray(teacher), 2)
    return losses.forward_kl(jnp.take_along_axis(student, index, -1), top, temperature=temperature)


def teacher_not_tempered(student, teacher, *, temperature=1.0, where=None):
    return losses.forward_kl(student, teacher * temperature, temperature=temperature, where=where)


def averaged_over_classes(student, teacher, *, temperature=1.0, where=None):
    loss = losses.forward_kl(student, teacher, temperature=temperature, where=where)
    return loss / student.shape[-1]


def cross_entropy_to_the_teacher(student, teacher, *, temperature=1.0, where=None):
    if where is not None:
        student, teacher = (jnp.where(where, x, -1e9) for x in (student, teacher))
    p = jax.nn.softmax(teacher / temperature)
    return -(temperature**2) * jnp.sum(p * jax.nn.log_softmax(student / temperature), -1)


def gradient_to_nowhere(student, teacher, *, temperature=1.0, where=None):
    student = jax.lax.stop_gradient(student)
    return losses.forward_kl(student, teacher, temperature=temperature, where=where)


@pytest.mark.parametrize(
    "mutant",
    [
        without_temperature_squared,
        temperature_once,
        swapped,
        mask_forgotten,
        mask_after_softmax,
        renormalized_over_top_k,
        teacher_not_tempered,
        averaged_over_classes,
        cross_entropy_to_the_teacher,
        gradient_to_nowhere,
    ],
)
def test_mutants_of_forward_kl_are_caught(mutant):
    with pytest.raises(AssertionError):
        check_forward_kl(mutant)


OTHER_MUTANTS = {
    "reverse_kl is forward": (check_reverse_kl, losses.forward_kl),
    "jsd with beta reversed": (
        check_jsd,
        lambda s, t, *, beta=0.5, **k: losses.jsd(s, t, beta=1 - beta, **k),
    ),
    "jsd divided by beta": (
        check_jsd,
        lambda s, t, *, beta=0.5, **k: losses.jsd(s, t, beta=beta, **k) / beta,
    ),
    "total variation without the half": (
        check_total_variation,
        lambda s, t, **k: 2 * losses.total_variation(s, t, **k),
    ),
    "total variation times T": (
        check_total_variation,
        lambda s, t, *, temperature=1.0, **k: (
            temperature * losses.total_variation(s, t, temperature=temperature, **k)
        ),
    ),
    "mse summed": (
        check_mse_logits,
        lambda s, t, **k: losses.mse_logits(s, t, **k) * s.shape[-1],
    ),
    "mse divided by all classes": (
        check_mse_logits,
        lambda s, t, where=None: jnp.mean((s - t) ** 2 * (1 if where is None else where), -1),
    ),
}


@pytest.mark.parametrize("name", OTHER_MUTANTS)
def test_mutants_of_the_others_are_caught(name):
    check, mutant = OTHER_MUTANTS[name]
    with pytest.raises(AssertionError):
        check(mutant)


@pytest.mark.slow
def test_top_k_renormalization_hides_the_tail():
    """Two classes agree exactly while the student leaks most of its mass elsewhere."""
    teacher = jnp.array([[4.0, 3.0, -4.0, -4.0]])
    student = jnp.array([[4.0, 3.0, 4.5, 4.5]])
    assert renormalized_over_top_k(student, teacher)[0] == 0
    expected = row_forward_kl(np.array(student[0], float), np.array(teacher[0], float))
    assert expected > 1
    np.testing.assert_allclose(losses.forward_kl(student, teacher), [expected], rtol=1e-5)
