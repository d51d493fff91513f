"""The last projection against NumPy in float64 and against derivatives by jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.losses.head import (
    Constants,
    Head,
    Projection,
    capped,
    logits_of,
    raw_gradient,
    without_padding,
)

CASES = {
    "plain": Constants(),
    "scaled": Constants(scale=0.25),
    "capped": Constants(softcap=3.0),
    "all": Constants(0.25, 3.0, True),
}


def by_numpy(hidden, weights, bias, constants):
    found = hidden @ (weights.T if constants.transposed else weights)
    found = (found + (0 if bias is None else bias)) * constants.scale
    return found if constants.softcap is None else constants.softcap * np.tanh(found / 3.0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8)])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_those_of_numpy(name, shape, bias):
    constants, draw = CASES[name], np.random.default_rng(0)
    hidden, weights = draw.normal(size=shape), 2 * draw.normal(size=(8, 11))
    weights = weights.T if constants.transposed else weights
    offset = draw.normal(size=11) if bias else None
    arrays = [None if x is None else jnp.asarray(x, jnp.float32) for x in (hidden, weights, offset)]
    found = logits_of(*arrays, constants)
    assert found.dtype == jnp.float32
    expected = by_numpy(hidden, weights, offset, constants)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_products_are_in_the_dtype_of_the_hidden_states_and_sums_in_float32():
    hidden, weights = jnp.full((1, 4096), 1.0, jnp.bfloat16), jnp.full((4096, 1), 1 + 2**-12)
    # 1 + 2^-12 is 1 in bfloat16; a sum kept in bfloat16 would stop at 256.
    assert logits_of(hidden, weights, None, Constants())[0, 0] == 4096.0


def test_a_given_product_is_used():
    def multiply(hidden, weights, preferred_element_type):
        return jnp.full((2, 7), 5.0, preferred_element_type)

    found = logits_of(jnp.ones((2, 3)), jnp.ones((3, 7)), None, Constants(2.0), multiply=multiply)
    np.testing.assert_array_equal(found, np.full((2, 7), 10.0))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_derivative(name):
    constants = CASES[name]
    raw = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)) * 3, jnp.float32)
    logits, back = jax.vjp(lambda x: capped(x, constants), raw)
    cotangent = jnp.arange(24.0).reshape(4, 6)
    expected = back(cotangent)[0]
    np.testing.assert_allclose(raw_gradient(cotangent, logits, constants), expected, rtol=2e-5)


def test_padding_takes_no_gradient():
    logits = jnp.asarray([[1.0, -jnp.inf]])
    found = raw_gradient(jnp.asarray([[1.0, 0.0]]), logits, Constants(0.5, 2.0))
    np.testing.assert_allclose(found, [[0.5 * (1 - 0.25), 0.0]], rtol=1e-6)


@pytest.mark.parametrize(("first", "kept"), [(0, 5), (3, 2), (7, 0)])
def test_padding_is_absent(first, kept):
    found = np.asarray(without_padding(jnp.ones((2, 6)), 5, first))
    np.testing.assert_array_equal(np.isfinite(found).sum(-1), kept)
    assert (found[:, kept:] == -np.inf).all()


def test_records_have_their_static_halves():
    weights = jnp.ones((3, 7))
    assert Head(weights, None, 5.0, 0.5).constants == Constants(0.5, 5.0, False)
    assert Projection(jnp.ones((2, 3)), weights.T, None, 0.5, 5.0, True).constants == (
        Constants(0.5, 5.0, True)
    )
