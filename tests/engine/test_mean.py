"""Averages carried as totals and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine.mean import Mean


@pytest.mark.parametrize("weights", [np.array([0.0, 0.5, 2.0, 0.0]), np.array([0, 1, 1, 0], bool)])
@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_what_has_no_weight_is_never_looked_at(nothing, weights):
    values = jnp.array([nothing, 3.0, 5.0, nothing])
    mean = Mean.of(values, jnp.asarray(weights))
    np.testing.assert_allclose(mean.value(), np.average([3.0, 5.0], weights=weights[1:3]))
    gradient = jax.grad(lambda x: Mean.of(x, jnp.asarray(weights)).total)(values)
    np.testing.assert_array_equal(gradient, weights)


def test_means_of_parts_add_up_to_the_mean_of_the_whole():
    random = np.random.default_rng(0)
    values, weights = random.normal(size=(2, 9)).astype(np.float32)
    weights = np.abs(weights)
    parts = [slice(0, 2), slice(2, 3), slice(3, 9)]
    first, *rest = (Mean.of(jnp.array(values[p]), jnp.array(weights[p])) for p in parts)
    found = sum(rest, start=first).value()
    np.testing.assert_allclose(found, np.average(values, weights=weights), rtol=1e-5)


def test_nothing_at_all_is_zero():
    assert float(Mean.of(jnp.full(3, jnp.nan), jnp.zeros(3)).value()) == 0.0


def test_shapes_are_checked():
    with pytest.raises(
        ValueError, match=r"where: got shape \(2,\), expected that of values, \(3,\)"
    ):
        Mean.of(jnp.zeros(3), jnp.zeros(2))
