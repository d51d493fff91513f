"""Scores of a language model against NumPy in float64, and what is made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import ModelError
from jaxdistill.evaluation import lm_scores
from jaxdistill.evaluation.metrics import agreement, compute_metrics
from jaxdistill.evaluation.uncertainty import difference_error, metric_interval
from jaxdistill.evaluation.verdict import verdict
from jaxdistill.models.outputs import Head, Outputs

ROWS, LENGTH, WIDTH, CLASSES = 3, 7, 5, 11


def make_outputs(seed: int = 0):
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    weights = random.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    labels = random.integers(-1, CLASSES, (ROWS, LENGTH)).astype(np.int32)
    logits = 3.0 * np.tanh(hidden.astype(np.float64) @ weights.astype(np.float64) / 3.0)
    head = Head(jnp.asarray(weights), softcap=3.0)
    return Outputs(None, jnp.asarray(hidden), {}, head), labels, logits


def by_hand(logits, labels):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    picked = np.take_along_axis(shares, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return np.where(labels >= 0, -np.log(picked), 0.0)


@pytest.mark.parametrize("cells", [1, 2 * ROWS * CLASSES, 2**25])
def test_tokens_are_scored_a_few_columns_at_a_time(monkeypatch, cells):
    monkeypatch.setattr(lm_scores, "_CELLS", cells)
    outputs, labels, logits = make_outputs()
    nats, said = lm_scores.token_scores(outputs, jnp.asarray(labels))
    np.testing.assert_allclose(nats, by_hand(logits, labels), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(said, logits.argmax(-1))
    dense = Outputs(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(
        lm_scores.token_scores(dense, jnp.asarray(labels))[0], nats, rtol=1e-5
    )


def test_metrics_are_those_of_all_tokens_together():
    outputs, labels, logits = make_outputs(seed=1)
    mask = (labels >= 0).astype(np.float32)
    mask[2] = 0.0  # a row that only fills the batch
    step = jax.jit(lm_scores.make_score_step(lambda params, batch, **options: outputs))
    scores, metrics = step({}, {"labels": labels, "loss_mask": mask})
    nats = (by_hand(logits, labels) * mask).sum()
    tokens, size = mask.sum(), 100
    truth = np.array([[mask[0].sum(), 60], [mask[1].sum(), 40], [0, 0]])
    found = compute_metrics("language_model", np.asarray(scores), truth)
    hits = ((logits.argmax(-1) == labels) * mask).sum()
    # Of the row that only fills some are right, too: they must not count.
    assert ((logits.argmax(-1) == labels) * (labels >= 0)).sum() > hits
    assert found == pytest.approx(
        {
            "perplexity": np.exp(nats / tokens),
            "bits_per_byte": nats / np.log(2) / size,
            "accuracy": hits / tokens,
        },
        rel=1e-5,
    )
    np.testing.assert_allclose(metrics["loss"].value(), nats / tokens, rtol=1e-5)
    assert (np.asarray(scores)[:, 2:] == np.where(mask > 0, logits.argmax(-1), -1)).all()


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte", "accuracy"])
def test_nan_is_refused(metric):
    scores = np.array([[1.0, 1, 3], [np.nan, 0, 0]], np.float32)
    with pytest.raises(ModelError, match="cross-entropies: got NaN in 1 of 2 rows"):
        compute_metrics("language_model", scores, np.array([[1, 4], [1, 4]]), [metric])


def test_agreement_counts_positions_at_which_something_is_predicted():
    ours = np.array([[0, 0, 4, 5, -1, 6]], np.float32)
    theirs = np.array([[0, 0, 4, 7, -1, 6]], np.float32)
    assert agreement(ours, theirs, "language_model") == pytest.approx(2 / 3)
    assert agreement(ours, ours, "language_model") == 1.0


def test_a_lower_perplexity_is_better_in_every_sentence():
    random = np.random.default_rng(0)
    truth = np.tile([[50, 200]], (40, 1))
    nats = random.normal(200, 5, (2, 40, 1)).astype(np.float32)
    alone = np.concatenate([nats, np.zeros((2, 40, 3))], -1)
    distilled = np.concatenate([nats - 10, np.zeros((2, 40, 3))], -1)
    arguments = "language_model", alone, distilled, truth, "perplexity"
    values = [
        [compute_metrics("language_model", seed, truth)["perplexity"] for seed in arm]
        for arm in (alone, distilled)
    ]
    result = {
        "metric": "perplexity",
        "higher_is_better": False,
        "examples": 40,
        "teacher": {"values": [40.0]},
        "student_alone": {"values": values[0]},
        "student_distilled": {"values": values[1]},
        "seeds": [0, 1],
        "evaluation_error": difference_error(*arguments).examples,
    }
    assert values[1][0] < values[0][0]
    assert verdict(result).startswith("Distillation paid off")
    swapped = {
        **result,
        "student_alone": {"values": values[1]},
        "student_distilled": {"values": values[0]},
    }
    assert verdict(swapped).startswith("Distillation did not pay off")
    low, high = metric_interval("language_model", alone[0], truth, "perplexity")
    assert low < values[0][0] < high


def test_the_accuracy_over_tokens_has_an_error_over_rows():
    random = np.random.default_rng(1)
    tokens = random.integers(5, 40, 300)
    truth = np.stack([tokens, 4 * tokens], 1)

    def arm(share):
        hits = random.binomial(tokens, share)[:, None]
        return np.concatenate([3.0 * tokens[:, None], hits, np.zeros((300, 3))], 1)

    alone, distilled = np.stack([arm(0.3), arm(0.3)]), np.stack([arm(0.4), arm(0.4)])
    error = difference_error("language_model", alone, distilled, truth, "accuracy")
    # A ratio of sums: each row's hits spread binomially about its tokens.
    expected = np.sqrt((0.3 * 0.7 + 0.4 * 0.6) / 2 / tokens.sum())
    assert error.examples == pytest.approx(expected, rel=0.15)
    low, high = metric_interval("language_model", alone[0], truth, "accuracy")
    assert low < 0.3 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.21 / tokens.sum()), rel=0.2)
