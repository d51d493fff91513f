"""Token losses in chunks against the same on whole logits, value and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.chunked_cases import case, stored, terms_of

from jaxdistill import losses
from jaxdistill.errors import ModelError
from jaxdistill.losses.chunked.api import chunked_loss
from jaxdistill.losses.head import Projection
from jaxdistill.teachers.cache import codecs


def dense(student, terms, arguments, where, vocabulary):
    product = "btd,vd->btv" if student.transposed else "btd,dv->btv"
    logits = jnp.einsum(product, student.hidden, student.weights)
    if student.bias is not None:
        logits = logits + student.bias.reshape(1, 1, -1)
    logits = logits * student.scale
    if student.softcap is not None:
        logits = student.softcap * jnp.tanh(logits / student.softcap)
    logits = logits[..., :vocabulary]
    return sum(
        weight * jnp.sum(jnp.where(where > 0, where * loss(logits, arguments), 0.0))
        for loss, weight in terms.values()
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("columns", [1, 3, 7, None])
@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        (codecs.Sampled(6, 2.0), "sampled_forward_kl", {}),
        (codecs.TopK(5), "topk_forward_kl", {"softcap": 4.0, "scale": 0.5}),
        (codecs.TopK(5, 3.0), "topk_jsd", {"transposed": True, "bias": False}),
    ],
)
def test_chunks_give_the_dense_value_and_gradients(codec, name, options, columns):
    student, teacher, labels, where = case(**options)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, name)

    def ours(student):
        found = chunked_loss(student, terms, arguments, where, vocabulary=30, columns=columns)
        return 2 * found.mix

    def theirs(student):
        return 2 * dense(student, terms, arguments, where, 30)

    value, gradient = jax.jit(jax.value_and_grad(ours))(student)
    expected, wanted = jax.jit(jax.value_and_grad(theirs))(student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(wanted)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), gradient, wanted
    )
    # Columns beyond the vocabulary take no part.
    beyond = gradient.weights[30:] if student.transposed else gradient.weights[:, 30:]
    assert not beyond.any()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("columns", [2, None])
def test_a_token_counts_as_much_as_its_weight_says(columns):
    """Weights are no yes or no: half a token is half of its loss and of its gradient."""
    student, teacher, labels, where = case()
    where = where * np.linspace(0.25, 2.0, where.size, dtype=np.float32).reshape(where.shape)
    codec = codecs.TopK(5)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, "topk_forward_kl")

    def ours(student):
        found = chunked_loss(student, terms, arguments, where, vocabulary=30, columns=columns)
        return found.mix, found.terms

    def theirs(student):
        return dense(student, terms, arguments, where, 30)

    (value, told), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(student)
    expected, wanted = jax.jit(jax.value_and_grad(theirs))(student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for _, weight in told.values():
        np.testing.assert_allclose(weight, where.sum(), rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), gradient, wanted
    )


@pytest.mark.slow
def test_the_parts_are_told_and_masked_tokens_are_never_looked_at():
    student, teacher, labels, where = case()
    codec = codecs.TopK(4)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, "topk_forward_kl")
    found = jax.jit(lambda s: chunked_loss(s, terms, arguments, where, columns=2))(student)
    mixed = sum(weight * found.terms[name][0] for name, (_, weight) in terms.items())
    np.testing.assert_allclose(found.mix, mixed, rtol=1e-6)
    assert float(found.terms["hard"][1]) == float(where.sum())
    broken = jnp.where(where[..., None] > 0, student.hidden, jnp.nan)

    def loss(hidden):
        own = Projection(hidden, student.weights, student.bias)
        return chunked_loss(own, terms, arguments, where, columns=2).mix

    value, gradient = jax.jit(jax.value_and_grad(loss))(broken)
    np.testing.assert_allclose(value, found.mix, rtol=1e-6)
    np.testing.assert_array_equal(gradient[where == 0], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_bfloat16_sums_the_gradient_of_the_head_in_float32():
    student, teacher, labels, where = case(dtype=jnp.bfloat16, bias=False)
    codec = codecs.Sampled(6)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, "sampled_forward_kl")

    def gradient(student):
        options = {"vocabulary": 30, "columns": 1}
        loss = jax.grad(lambda s: chunked_loss(s, terms, arguments, where, **options).mix)
        return jax.jit(loss)(student)

    low = gradient(student)
    assert low.hidden.dtype == jnp.bfloat16
    assert low.weights.dtype == jnp.float32
    exact = gradient(Projection(student.hidden.astype(jnp.float32), student.weights))
    error = np.abs(low.weights - exact.weights).max() / np.abs(exact.weights).max()
    assert error < 2e-2


def test_shapes_are_checked():
    student, _, labels, where = case()
    terms = {"hard": (lambda logits, own: losses.cross_entropy(logits, own), 1.0)}
    with pytest.raises(ModelError, match=r"expected \[B, T, D\]"):
        chunked_loss(student, terms, labels, where[0])
