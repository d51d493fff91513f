"""What is frozen and what is trained are parted by patterns, and merge to what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.frozen_cases import APART, STACKED, assert_equal, leaves

from jaxdistill.engine.frozen import merge_parameters, split_parameters
from jaxdistill.errors import ConfigError


@pytest.mark.parametrize("params", [STACKED, APART], ids=["stacked", "apart"])
@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        ([r"embeddings"], []),
        ([r"layers/.*/[02]$"], [0, 2]),
        ([r"layers/.*/[0-2]$", "head"], [0, 1, 2]),
        ([r"layers"], [0, 1, 2, 3]),
        ([r"kernel$"], [0, 1, 2, 3]),
    ],
)
def test_parts_have_the_layers_that_the_patterns_say_and_merge_again(params, patterns, layers):
    trained, frozen = split_parameters(params, patterns)
    assert_equal(merge_parameters(trained, frozen), params)
    kernels = np.concatenate(
        [
            np.reshape(leaf, (-1, 2, 2))
            for name, leaf in leaves(frozen).items()
            if "up/kernel" in name
        ]
        or [np.zeros((0, 2, 2))]
    )
    np.testing.assert_array_equal(kernels, STACKED["layers"]["up"]["kernel"][layers])
    sizes = [sum(leaf.size for leaf in leaves(part).values()) for part in (trained, frozen)]
    assert sum(sizes) == sum(leaf.size for leaf in leaves(params).values())
    compiled = jax.jit(lambda tree: merge_parameters(*split_parameters(tree, patterns)))
    assert_equal(compiled(params), jax.tree.map(jnp.asarray, params))


def test_layers_that_are_trained_keep_their_order_when_they_change():
    trained, frozen = split_parameters(STACKED, [r"layers/.*/[13]$"])
    changed = jax.tree.map(lambda leaf: leaf + 100, trained)
    kernel = merge_parameters(changed, frozen)["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(kernel[1::2], STACKED["layers"]["up"]["kernel"][1::2])
    np.testing.assert_array_equal(kernel[::2], STACKED["layers"]["up"]["kernel"][::2] + 100)


def test_shapes_are_split_as_arrays_are():
    patterns = [r"layers/.*/[02]$", "head"]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), STACKED)
    for ours, theirs in zip(
        split_parameters(shapes, patterns), split_parameters(STACKED, patterns), strict=True
    ):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert [leaf.shape for leaf in jax.tree.leaves(ours)] == [
            leaf.shape for leaf in jax.tree.leaves(theirs)
        ]


def test_no_gradient_flows_to_what_is_frozen():
    trained, frozen = split_parameters(STACKED, [r"layers/.*/[02]$", "head"])

    def total(trained, frozen):
        merged = merge_parameters(trained, frozen)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(merged))

    ours, theirs = jax.grad(total, argnums=(0, 1))(*jax.tree.map(jnp.asarray, (trained, frozen)))
    jax.tree.map(lambda got, leaf: np.testing.assert_allclose(got, 2 * leaf), ours, trained)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(theirs))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["nowhere"], "mine: the pattern 'nowhere' matches no parameter.*'embeddings/table'"),
        (["layers/.*/4$"], "matches no parameter"),
        (["layers", "head", "embeddings"], "match every parameter"),
    ],
)
def test_patterns_that_cannot_be_meant(patterns, message):
    with pytest.raises(ConfigError, match=message):
        split_parameters(STACKED, patterns, setting="mine")


def test_training_only_the_maps_is_refused():
    params = {"student": STACKED, "projections": {"hidden": np.ones((2, 2))}}
    with pytest.raises(ConfigError, match="nothing to train"):
        split_parameters(params, ["student"])
    _, frozen = split_parameters(params, ["projections"])
    assert list(leaves(frozen)) == ["projections/hidden"]
