"""Candidates and draws against a plain search, transformers and the distribution itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.generation.token_sampling import candidates, next_token


@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 200])
def test_candidates_are_those_of_a_plain_search(top_k, top_p):
    scores = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32) * 2
    values, ids = (np.asarray(x) for x in candidates(jnp.asarray(scores), top_k, top_p))
    for row, kept, order in zip(scores.astype(np.float64), values, ids, strict=True):
        ranked = sorted(range(50), key=lambda token: -row[token])[:top_k]
        weights = np.exp([row[token] for token in ranked])
        weights /= weights.sum()
        count = 1
        while top_p is not None and count < len(ranked) and weights[:count].sum() < top_p:
            count += 1
        # At top_p 1 the rest may be below what rounding can tell from nothing.
        expected = ranked if top_p in (None, 1.0) else ranked[:count]
        assert [int(t) for t in order[np.isfinite(kept)]] == expected
        np.testing.assert_array_equal(kept[np.isfinite(kept)], row[expected].astype(np.float32))


@pytest.mark.parametrize(("top_k", "top_p"), [(7, None), (None, 0.6), (12, 0.8)])
def test_candidates_are_those_of_transformers(top_k, top_p):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    scores = np.random.default_rng(1).normal(size=(16, 80)).astype(np.float32) * 3
    expected = torch.tensor(scores)
    for value, warper in ((top_k, process.TopKLogitsWarper), (top_p, process.TopPLogitsWarper)):
        if value is not None:
            expected = warper(value)(None, expected)
    values, ids = (np.asarray(x) for x in candidates(jnp.asarray(scores), top_k, top_p))
    got = np.full_like(scores, -np.inf)
    np.put_along_axis(got, ids, values, 1)
    np.testing.assert_array_equal(got, expected.numpy())


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (4, None), (None, 0.8), (5, 0.8)])
def test_draws_follow_the_tempered_distribution(top_k, top_p):
    rows, temperature = 20_000, 1.7
    logits = np.array([2.0, -1.0, 0.5, 1.5, 0.0, 1.0, -3.0, 0.2], np.float32)
    tokens = next_token(
        jnp.asarray(np.tile(logits, (rows, 1))),
        jax.random.key(0),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    ranked = np.argsort(-logits)[:top_k]
    weights = np.exp(logits[ranked].astype(np.float64) / temperature)
    weights /= weights.sum()
    if top_p is not None:
        weights[1:] *= weights.cumsum()[:-1] < top_p
        weights /= weights.sum()
    expected = np.zeros(len(logits))
    expected[ranked] = weights
    got = np.bincount(np.asarray(tokens), minlength=len(logits)) / rows
    assert (got[expected == 0] == 0).all()
    error = np.sqrt(expected * (1 - expected) / rows)
    assert (np.abs(got - expected) <= 4 * error).all()
