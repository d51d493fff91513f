"""Parameters of which parts are frozen, with layers stacked and apart."""

import jax
import numpy as np

STACKED = {
    "embeddings": {"table": np.arange(10.0).reshape(5, 2)},
    "layers": {
        "up": {"kernel": np.arange(16.0).reshape(4, 2, 2), "bias": np.arange(8.0).reshape(4, 2)}
    },
    "head": {"kernel": np.ones((2, 3))},
}
APART = {
    **STACKED,
    "layers": {"up": {name: tuple(leaf) for name, leaf in STACKED["layers"]["up"].items()}},
}


def leaves(tree):
    """Return a tree's arrays by their paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_equal(ours, theirs):
    """Check that two trees are the same."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
