"""Prompts and what is written behind them, for the tests of generation."""

import numpy as np

LENGTHS = (11, 4, 1)


def prompts(side="left", lengths=LENGTHS):
    """Random prompts with what stands for padding where no model has a token."""
    random = np.random.default_rng(0)
    ids = np.full((len(lengths), max(lengths)), -1, np.int32)
    mask = np.zeros(ids.shape, np.int32)
    for i, length in enumerate(lengths):
        start = max(lengths) - length if side == "left" else 0
        ids[i, start : start + length] = random.integers(5, 99, length)
        mask[i, start : start + length] = 1
    return ids, mask


def same(one, other):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=0, atol=2e-5)
