"""Losses from cached classes where masks, padding, low precision and huge values bite."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.sparse_cases import TOP, cache, compiled, example

from jaxdistill import losses
from jaxdistill.errors import ConfigError, DataError, ModelError


@pytest.mark.slow
def test_a_tail_that_rounds_to_nothing_stays_finite_from_parts():
    student = jnp.array([[30.0, 29.0, -30.0, -31.0]])
    cached = (jnp.array([[0, 1]]), jnp.log(jnp.array([[0.6, 0.3]])), jnp.log(jnp.array([0.1])))

    def parts(s):
        normalizer = jax.nn.logsumexp(s, -1)
        pair = losses.topk_classes_from_parts(s[:, :2], normalizer, *cached[1:])
        return losses.forward_kl(*pair).sum()

    value, gradient = jax.jit(jax.value_and_grad(parts))(student)
    assert 1 < value < 5
    assert jnp.isfinite(gradient).all()
    # The dense form resolves it: 0.1 (log 0.1 + 60) and more.
    assert losses.topk_forward_kl(student, *cached)[0] > 5


def test_low_precision_is_computed_in_float32():
    student, teacher = example(seed=9)
    cached = cache(teacher, 4)
    low = jnp.asarray(student, jnp.bfloat16)
    for loss in TOP.values():
        got = loss(low, *cached)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, loss(low.astype(jnp.float32), *cached))
    weights = jax.nn.softmax(cached[1])
    got = losses.sampled_forward_kl(low, cached[0], weights)
    np.testing.assert_allclose(
        got, losses.sampled_forward_kl(low.astype(jnp.float32), cached[0], weights), rtol=1e-6
    )


@pytest.mark.slow
def test_masked_classes_count_as_sliced_away():
    student, teacher = example(seed=10)
    padded = jnp.pad(student, ((0, 0), (0, 7)), constant_values=jnp.nan)
    where = jnp.broadcast_to(jnp.arange(30) < 23, padded.shape)
    infinite = jnp.where(where, padded, -jnp.inf)
    cached = cache(teacher, 4)
    ids, log_probabilities, _ = cached
    weights = jax.nn.softmax(log_probabilities)
    calls = [functools.partial(_total, loss, cached) for loss in TOP.values()]
    calls.append(functools.partial(_total, losses.sampled_forward_kl, (ids, weights)))
    for call in calls:
        program = jax.jit(jax.value_and_grad(call))
        expected, slope = program(student)
        for logits, mask in ((padded, where), (infinite, None)):
            got, gradient = program(logits, mask)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
            np.testing.assert_allclose(gradient[:, :23], slope, atol=1e-6)
            np.testing.assert_array_equal(gradient[:, 23:], 0)


def _total(loss, cached, logits, where=None):
    return loss(logits, *cached, where=where).sum()


@pytest.mark.slow
def test_unused_slots_and_padding_rows_say_nothing():
    student, teacher = example(seed=11)
    ids, log_probabilities, log_tail = cache(teacher, 4)
    wide = jnp.pad(ids, ((0, 0), (0, 2)))  # class 0 in unused slots stays in the tail
    filled = jnp.pad(log_probabilities, ((0, 0), (0, 2)), constant_values=-jnp.inf)
    for loss in TOP.values():
        program = compiled(loss)
        np.testing.assert_allclose(
            program(student, wide, filled, log_tail),
            program(student, ids, log_probabilities, log_tail),
            rtol=1e-6,
        )
        empty = (jnp.full_like(log_probabilities, -jnp.inf), jnp.full_like(log_tail, -jnp.inf))
        silent = jax.value_and_grad(lambda s, e=empty, f=loss: f(s, ids, *e).sum())
        value, gradient = jax.jit(silent)(student)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
    nothing = jnp.zeros(ids.shape), jnp.ones(ids.shape[:1])
    silent = jax.value_and_grad(lambda s: losses.sampled_forward_kl(s, ids, *nothing).sum())
    value, gradient = jax.jit(silent)(student)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.slow
def test_a_class_the_student_lacks_is_infinite_with_a_finite_gradient():
    student, teacher = example(seed=12, rows=1)
    ids, log_probabilities, log_tail = cache(teacher, 3)
    cases = [
        (student, ids.at[0, 1].set(99)),
        (student, ids.at[0, 1].set(-1)),
        (jnp.asarray(student).at[0, ids[0, 1]].set(-jnp.inf), ids),
    ]
    weights = jnp.array([[0.5, 0.3, 0.2]])
    for loss in (
        lambda s, i: losses.topk_forward_kl(s, i, log_probabilities, log_tail).sum(),
        lambda s, i: losses.sampled_forward_kl(s, i, weights).sum(),
    ):
        program = jax.jit(jax.value_and_grad(loss))
        for logits, classes in cases:
            value, gradient = program(logits, classes)
            assert value == jnp.inf
            assert jnp.isfinite(gradient).all()
    jsd = losses.topk_jsd(student, ids.at[0, 1].set(99), log_probabilities, log_tail)
    assert jnp.isfinite(jsd).all()


@pytest.mark.slow
def test_a_confident_student_keeps_its_tail():
    """100 nats below the best, the tail's logarithm is still exact in float32."""
    student = jnp.array([[0.0, -100.0, -101.0]])
    value = losses.topk_forward_kl(
        student, jnp.array([[0]]), jnp.log(jnp.array([[0.9]])), jnp.log(jnp.array([0.1]))
    )
    log_s = -100 + math.log1p(math.exp(-1))
    expected = 0.9 * math.log(0.9) + 0.1 * (math.log(0.1) - log_s)
    np.testing.assert_allclose(value, [expected], rtol=1e-5)


def test_bad_arguments_are_named():
    student, teacher = example(seed=13)
    ids, log_probabilities, log_tail = cache(teacher, 4)
    with pytest.raises(DataError, match="ids: got dtype float32"):
        losses.topk_forward_kl(student, ids * 1.0, log_probabilities, log_tail)
    with pytest.raises(ModelError, match="log_tail: got shape"):
        losses.topk_forward_kl(student, ids, log_probabilities, log_tail[:, None])
    with pytest.raises(ModelError, match="ids: got shape"):
        losses.topk_forward_kl(student, ids[:2], log_probabilities, log_tail)
    with pytest.raises(ConfigError, match="tail: got 'even'"):
        losses.topk_forward_kl(student, ids, log_probabilities, log_tail, tail="even")
    with pytest.raises(ConfigError, match="temperature"):
        losses.topk_jsd(student, ids, log_probabilities, log_tail, temperature=0)
    with pytest.raises(ModelError, match="weights: got shape"):
        losses.sampled_forward_kl(student, ids, log_tail)
    with pytest.raises(DataError, match="where: got dtype"):
        losses.sampled_forward_kl(student, ids, jnp.exp(log_probabilities), where=student)
