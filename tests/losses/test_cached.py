"""Losses from cached classes against float64 loops over the distributions they stand for."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from support.sparse_cases import FULL, TOP, cache, compiled, example, kl, softmax

from jaxdistill import losses


def coarse(row, ids, temperature):
    p = softmax(row, temperature)
    return [p[c] for c in ids] + [math.fsum(x for c, x in enumerate(p) if c not in set(ids))]


def coarse_value(name, p, q, temperature):
    if name == "forward":
        return temperature**2 * kl(p, q)
    if name == "reverse":
        return temperature**2 * kl(q, p)
    if name == "jsd":
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return temperature**2 * (kl(p, m) + kl(q, m)) / 2
    return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


@pytest.mark.parametrize("name", TOP)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_top_k_is_the_divergence_of_the_k_classes_and_the_tail(name, temperature):
    student, teacher = example()
    ids, log_probabilities, log_tail = cache(teacher, 4, temperature)
    got = jax.jit(TOP[name])(student, ids, log_probabilities, log_tail, temperature=temperature)
    expected = [
        coarse_value(name, coarse(t, i, temperature), coarse(s, i, temperature), temperature)
        for s, t, i in zip(student.astype(float), teacher.astype(float), ids.tolist(), strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("beta", [0.1, 0.3, 0.9])
def test_beta_is_the_teachers_share_of_the_mixture(beta):
    student, teacher = example()
    got = losses.topk_jsd(student, *cache(teacher, 4, 2.0), temperature=2.0, beta=beta)
    expected = []
    for s, t in zip(student.astype(float), teacher.astype(float), strict=True):
        ids = sorted(range(len(t)), key=lambda c: -t[c])[:4]
        p, q = coarse(t, ids, 2.0), coarse(s, ids, 2.0)
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        expected.append(4 * (beta * kl(p, m) + (1 - beta) * kl(q, m)))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", TOP)
def test_top_k_is_a_lower_bound_that_all_classes_close(name):
    student, teacher = example(seed=1, rows=40)
    full = np.asarray(compiled(FULL[name], temperature=2.0)(student, teacher))
    before = 0.0
    for k in (1, 5, 23):
        value = compiled(TOP[name], temperature=2.0)(student, *cache(teacher, k, 2.0))
        value = np.asarray(value)
        assert (value <= full * (1 + 1e-5) + 1e-6).all()
        assert value.mean() > before  # more classes, more said
        before = value.mean()
    np.testing.assert_allclose(value, full, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_tail_is_never_renormalized_away():
    """The two best classes agree but for a factor, and the student leaks the rest elsewhere."""
    p = [0.60, 0.30, 0.05, 0.03, 0.02]

    def leaking(kept):
        return [0.60 * kept, 0.30 * kept, *[(1 - 0.90 * kept) / 3] * 3]

    low, high = 1e-3, 1.0
    for _ in range(60):  # the share that makes the full KL 1.15
        middle = (low + high) / 2
        low, high = (middle, high) if kl(p, leaking(middle)) > 1.15 else (low, middle)
    student, teacher = jnp.log(jnp.array([leaking(low)])), jnp.log(jnp.array([p]))
    assert losses.forward_kl(student, teacher)[0] == pytest.approx(1.15, rel=1e-5)
    cached = cache(teacher, 2)
    ids = cached[0]
    top = (jnp.take_along_axis(x, ids, -1) for x in (student, teacher))
    assert losses.forward_kl(*top)[0] == pytest.approx(0, abs=1e-6)  # what renormalizing sees

    ours = losses.topk_forward_kl(student, *cached)[0]
    expected = 0.9 * math.log(1 / low) + 0.1 * math.log(0.1 / (1 - 0.9 * low))
    assert ours == pytest.approx(expected, rel=1e-5)
    assert 1.0 < ours <= 1.15
    assert losses.topk_forward_kl(student, *cached, tail="uniform")[0] > 1.0
    gradient = jax.jit(jax.grad(lambda s: losses.topk_forward_kl(s, *cached)[0]))(student)
    assert (gradient[0, :2] < -0.1).all()  # descent raises the two classes
    assert (gradient[0, 2:] > 0.1).all()  # and lowers the rest


@pytest.mark.mostly_slow
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_tail_is_spread_in_the_students_proportions(temperature):
    """Same value and gradient as the full KL from an explicit teacher of all classes."""
    student, teacher = example(seed=2)
    ids, log_probabilities, log_tail = cache(teacher, 4, temperature)
    explicit = np.zeros(teacher.shape)
    for row, (s, t, kept) in enumerate(zip(student, teacher, ids.tolist(), strict=True)):
        p, q = softmax(t.astype(float), temperature), softmax(s.astype(float), temperature)
        tail = [c for c in range(len(p)) if c not in kept]
        for c in kept:
            explicit[row, c] = p[c]
        for c in tail:
            explicit[row, c] = sum(p[x] for x in tail) * q[c] / sum(q[x] for x in tail)
    logits = temperature * jnp.log(jnp.asarray(explicit, jnp.float32))

    def ours(s):
        return losses.topk_forward_kl(
            s, ids, log_probabilities, log_tail, temperature=temperature
        ).sum()

    def full(s):
        return losses.forward_kl(s, logits, temperature=temperature).sum()

    (value, slope), (expected, wanted) = (
        jax.jit(jax.value_and_grad(loss))(student) for loss in (ours, full)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted, atol=2e-5)


@pytest.mark.slow
def test_the_uniform_tail_is_the_full_kl_from_a_uniform_tail():
    student, teacher = example(seed=3)
    where = np.random.default_rng(3).random(student.shape) < 0.8
    teacher = np.where(where, teacher, -np.inf)
    ids, log_probabilities, log_tail = cache(teacher, 4, 2.0)
    for mask in (None, jnp.asarray(where)):
        explicit = np.zeros(teacher.shape)
        for row in range(len(teacher)):
            kept = ids[row].tolist()
            allowed = where[row] if mask is not None else np.ones(teacher.shape[1], bool)
            tail = [c for c in range(teacher.shape[1]) if c not in kept and allowed[c]]
            explicit[row, kept] = np.exp(log_probabilities[row])
            explicit[row, tail] = np.exp(log_tail[row]) / len(tail)
        logits = jnp.where(explicit > 0, 2.0 * np.log(np.maximum(explicit, 1e-30)), -jnp.inf)
        arguments = (jnp.asarray(student), ids, log_probabilities, log_tail)
        got = losses.topk_forward_kl(*arguments, temperature=2.0, where=mask, tail="uniform")
        expected = losses.forward_kl(student, logits, temperature=2.0, where=mask)
        np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.slow
def test_a_student_equal_to_the_teacher_stays():
    """What distinguishes the default tail from the uniform one: the teacher is its minimum."""
    _, teacher = example(seed=4)
    cached = cache(teacher, 4)

    def gradient(tail):
        loss = jax.grad(lambda s: losses.topk_forward_kl(s, *cached, tail=tail).sum())
        return jax.jit(loss)(teacher)

    np.testing.assert_allclose(losses.topk_forward_kl(teacher, *cached), 0, atol=1e-6)
    np.testing.assert_allclose(gradient("student"), 0, atol=1e-6)
    assert jnp.abs(gradient("uniform")).max() > 1e-3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", TOP)
def test_the_form_from_parts_agrees_in_value_and_gradient(name):
    student, teacher = example(seed=5)
    ids, log_probabilities, log_tail = cache(teacher, 6, 2.0)

    def dense(s):
        return TOP[name](s, ids, log_probabilities, log_tail, temperature=2.0).sum()

    def parts(s):
        gathered = jnp.take_along_axis(s, ids, -1)
        normalizer = jax.nn.logsumexp(s / 2.0, -1)
        student, teacher = losses.topk_classes_from_parts(
            gathered, normalizer, log_probabilities, log_tail, temperature=2.0
        )
        return (1.0 if name == "variation" else 4.0) * FULL[name](student, teacher).sum()

    (value, slope), (expected, wanted) = (
        jax.jit(jax.value_and_grad(loss))(student) for loss in (parts, dense)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted, atol=2e-5)


@pytest.mark.slow
def test_gradients_match_finite_differences():
    student, teacher = example(seed=6, rows=2, classes=9)
    ids, log_probabilities, log_tail = cache(teacher, 3, 1.5)
    for loss in TOP.values():
        program = compiled(loss, temperature=1.5)
        check_grads(
            lambda s, loss=program: loss(s, ids, log_probabilities, log_tail),
            (jnp.asarray(student),),
            order=1,
            modes=("rev",),
            atol=2e-2,
            rtol=2e-2,
        )
    weights = jnp.exp(log_probabilities) / jnp.exp(log_probabilities).sum(-1, keepdims=True)
    program = compiled(losses.sampled_forward_kl, temperature=1.5)
    check_grads(
        lambda s: program(s, ids, weights),
        (jnp.asarray(student),),
        order=1,
        modes=("rev",),
        atol=2e-2,
        rtol=2e-2,
    )


def test_all_classes_with_their_probabilities_sample_the_full_kl():
    student, teacher = example(seed=7)
    ids, log_probabilities, _ = cache(teacher, 23, 2.0)
    p = np.exp(np.asarray(log_probabilities, np.float64))
    entropy = jnp.asarray(-(p * np.log(p)).sum(-1), jnp.float32)
    got = losses.sampled_forward_kl(student, ids, jnp.asarray(p), entropy, temperature=2.0)
    expected = [
        4 * kl(softmax(t, 2.0), softmax(s, 2.0))
        for s, t in zip(student.astype(float), teacher.astype(float), strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.slow
def test_draws_with_replacement_have_the_gradient_of_the_full_kl_on_average():
    """The paper's estimator, drawn by NumPy: mean gradient within 3 standard errors, both ways."""
    generator = np.random.default_rng(8)
    student, teacher = example(seed=8, rows=1)
    p = np.array(softmax(teacher[0].astype(float), 2.0))
    draws = generator.choice(len(p), (4000, 12), p=p)

    def slope(s, ids, weights):
        loss = functools.partial(losses.sampled_forward_kl, temperature=2.0)
        return jax.grad(lambda s: loss(s, ids, weights))(s)

    even = jnp.full((12,), 1 / 12)
    gradient = jax.jit(jax.vmap(slope, (None, 0, None)))(student[0], jnp.asarray(draws), even)
    full = jax.jit(jax.grad(lambda s: losses.forward_kl(s, teacher[0], temperature=2.0)))(
        student[0]
    )
    error = np.asarray(gradient).std(0) / np.sqrt(len(draws))
    distance = np.abs(np.asarray(gradient).mean(0) - np.asarray(full)) / error
    assert (distance < 3).mean() > 0.95
    assert distance.max() < 4.5
    renormalized = jax.jit(slope)(student[0], *_top_renormalized(p, 12))
    assert (np.abs(renormalized - full) / error).max() > 10


def _top_renormalized(p, k):
    order = np.argsort(-p)[:k]
    return jnp.asarray(order), jnp.asarray(p[order] / p[order].sum(), jnp.float32)
