"""Token losses in chunks against the same on whole logits, value and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses
from jaxdistill.engine.mesh import make_mesh
from jaxdistill.engine.sharding import batch_sharding, replicated
from jaxdistill.errors import ModelError
from jaxdistill.losses.chunked import chunked_loss
from jaxdistill.losses.fused import Projection
from jaxdistill.teacher import codecs

ROWS, LENGTH, WIDTH, CLASSES = 2, 7, 8, 40


def case(seed=0, *, bias=True, transposed=False, dtype=jnp.float32, **constants):
    keys = jax.random.split(jax.random.key(seed), 6)
    hidden = jax.random.normal(keys[0], (ROWS, LENGTH, WIDTH), dtype)
    shape = (CLASSES, WIDTH) if transposed else (WIDTH, CLASSES)
    weights = jax.random.normal(keys[1], shape)
    offset = jax.random.normal(keys[2], (CLASSES,)) if bias else None
    student = Projection(hidden, weights, offset, transposed=transposed, **constants)
    teacher = 3 * jax.random.normal(keys[3], (ROWS * LENGTH, 30))
    labels = jax.random.randint(keys[4], (ROWS, LENGTH), 0, 30)
    where = (jax.random.uniform(keys[5], (ROWS, LENGTH)) < 0.7).astype(jnp.float32)
    return student, teacher, labels, where


def stored(codec, teacher):
    keys = codecs.token_keys(0, np.arange(ROWS * LENGTH), np.zeros(ROWS * LENGTH))
    decoded = jax.jit(lambda x: codecs.decode(codec, codecs.encode(codec, x, keys)))(teacher)
    return tuple(leaf.reshape(ROWS, LENGTH, *leaf.shape[1:]) for leaf in decoded)


def terms_of(codec, names):
    loss = getattr(losses, names)
    return {
        "soft": (
            lambda logits, own: loss(logits, *own["parts"], temperature=codec.temperature),
            0.7,
        ),
        "hard": (lambda logits, own: losses.cross_entropy(logits, own["labels"]), 0.3),
    }


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


@pytest.mark.parametrize(("columns", "shards"), [(1, 1), (3, 2), (7, 3), (None, 2)])
@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        (codecs.Sampled(6, 2.0), "sampled_forward_kl", {}),
        (codecs.TopK(5), "topk_forward_kl", {"softcap": 4.0, "scale": 0.5}),
        (codecs.TopK(5, 3.0), "topk_jsd", {"transposed": True, "bias": False}),
    ],
)
def test_chunks_give_the_dense_value_and_gradients(codec, name, options, columns, shards):
    student, teacher, labels, where = case(**options)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, name)

    def ours(student):
        options = {"vocabulary": 30, "columns": columns, "shards": shards}
        return 2 * chunked_loss(student, terms, arguments, where, **options).mix

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


def test_devices_that_share_the_rows_sum_the_gradient_of_the_head_once():
    """Rows over 2 devices: equal to one, and no collective of the head's size in the loop."""
    student, teacher, labels, where = case(bias=False)
    codec = codecs.TopK(5)
    arguments = {"parts": stored(codec, teacher), "labels": labels}
    terms = terms_of(codec, "topk_forward_kl")

    def loss(hidden, weights, arguments, where):
        options = {"vocabulary": 30, "columns": 2, "shards": 2}
        return chunked_loss(Projection(hidden, weights), terms, arguments, where, **options).mix

    given = (student.hidden, student.weights, arguments, where)
    expected = jax.jit(jax.grad(loss, (0, 1)))(*given)
    mesh = make_mesh(2)
    over, whole = batch_sharding(mesh), replicated(mesh)
    step = jax.jit(jax.grad(loss, (0, 1)), in_shardings=(over, whole, over, over))
    compiled = step.lower(*given).compile()
    for ours, theirs in zip(compiled(*given), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    program = compiled.as_text()
    assert program is not None
    lines = [line for line in program.splitlines() if "all-reduce(" in line]
    assert len([line for line in lines if f"{WIDTH},{CLASSES - 10}" in line]) <= 1, lines
    assert not any("while/body" in line and f"{WIDTH},{CLASSES - 10}" in line for line in lines)


def test_shapes_are_checked():
    student, _, labels, where = case()
    terms = {"hard": (lambda logits, own: losses.cross_entropy(logits, own), 1.0)}
    with pytest.raises(ModelError, match=r"expected \[B, T, D\]"):
        chunked_loss(student, terms, labels, where[0])
