"""Shared layers against NumPy in float64, and the statistics of dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import ModelError
from jaxdistill.models.layers.activations import ACTIVATIONS, activation
from jaxdistill.models.layers.basic import LayerNorm, attend, dropout


@pytest.mark.parametrize("shape", [(400, 1000), (2, 200, 999)])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_expected_share_and_the_mean(rate, shape):
    x = jnp.ones(shape)
    y = np.asarray(jax.jit(lambda key: dropout(x, rate, key))(jax.random.key(0)), np.float64)
    kept, size = y != 0, y.size
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / size)
    # The scale undoes the rate as drawn, a multiple of 2**-16, so the mean has no bias.
    np.testing.assert_allclose(y[kept], 65536 / round((1 - rate) * 65536), rtol=1e-6)
    assert abs(y.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / size)


def test_dropout_draws_neighbours_independently():
    # Two neighbours share one 32-bit word: their halves must not be related.
    y = np.asarray(dropout(jnp.ones((500, 1000)), 0.5, jax.random.key(1))) > 0
    even, odd = y[:, ::2].ravel(), y[:, 1::2].ravel()
    for other in (odd, np.roll(even, 1)):
        assert abs(np.corrcoef(even, other)[0, 1]) < 5 / np.sqrt(even.size)


def test_dropout_is_the_identity_at_rate_zero_and_without_a_key():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.0, jax.random.key(0)) is x
    assert dropout(x, 0.3, None) is x
    np.testing.assert_array_equal(dropout(x, 1.0, jax.random.key(0)), np.zeros((2, 3)))


def test_dropout_keeps_the_dtype():
    assert dropout(jnp.ones(8, jnp.bfloat16), 0.1, jax.random.key(0)).dtype == jnp.bfloat16


def test_attention_equals_its_formula():
    random = np.random.default_rng(0)
    query, key, value = (random.normal(size=(2, 5, 3, 4)).astype(np.float32) for _ in range(3))
    mask = random.random((2, 1, 1, 5)) < 0.7
    mask[..., 0] = True
    mixed, probabilities = attend(*map(jnp.asarray, (query, key, value)), jnp.asarray(mask))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key, dtype=np.float64) / 2.0
    weights = np.where(mask, np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 5, 12)
    np.testing.assert_allclose(probabilities, weights, atol=1e-6)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_layer_norm_is_exact_far_from_zero():
    norm = LayerNorm(64, epsilon=1e-12)
    x = 1000 + np.random.default_rng(0).normal(size=(3, 64))
    wide = x.astype(np.float32).astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, atol=2e-3)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_equal_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = activations.ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(activation(name)(jnp.asarray(x)), expected, atol=2e-6)


def test_unknown_activation_is_named():
    with pytest.raises(ModelError, match=r"got 'gleu'.*Did you mean 'gelu'"):
        activation("gleu")
