"""Terms over features and schedules against NumPy: which rows, tokens, layers and steps count."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import losses
from jaxdistill.engine.objective import Objective, features_term, logits_term, task_term
from jaxdistill.models.outputs import Outputs

ROWS, LENGTH, WIDTH, HEADS = 4, 5, 3, 2
# Rows of unequal length; the last one only fills: a copy of a real one, of weight 0.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
WEIGHT = np.array([1.0, 0.5, 1.0, 0.0], np.float32)
BATCH = {"attention_mask": jnp.array(MASK), "weight": jnp.array(WEIGHT)}


def outputs(seed: int, layers: int) -> Outputs:
    """Hidden states and attention maps of every layer, by chance."""
    random = np.random.default_rng(seed)
    features = {}
    for layer in range(layers):
        hidden = random.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
        scores = random.normal(size=(ROWS, HEADS, LENGTH, LENGTH)).astype(np.float32)
        scores = np.exp(np.where(MASK[:, None, None], scores, -np.inf))
        features[f"layers.{layer}.hidden"] = jnp.asarray(hidden)
        features[f"layers.{layer}.attention"] = jnp.asarray(scores / scores.sum(-1, keepdims=True))
    logits = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return Outputs(logits=jnp.asarray(logits), features=features)


STUDENT, TEACHER = outputs(0, 2), outputs(1, 4)
PAIRS = {0: 1, 1: 3}


def squared(student: np.ndarray, teacher: np.ndarray, row: int, token: int) -> float:
    return float(((student[row, token] - teacher[row, token]) ** 2).mean())


def divergence(student: np.ndarray, teacher: np.ndarray, row: int, token: int) -> float:
    """Summed over heads, of each the KL over the tokens that are there."""
    found = 0.0
    for head in range(HEADS):
        p, q = (side[row, head, token][MASK[row] > 0] for side in (teacher, student))
        found += float((p * np.log(p / q)).sum())
    return found


@pytest.mark.parametrize(
    ("kind", "loss", "one", "per_token"),
    [
        ("hidden", losses.hidden_mse, squared, 1),
        ("attention", losses.attention_kl, divergence, HEADS),
    ],
)
def test_features_are_averaged_over_all_pairs_and_the_tokens_of_real_rows(
    kind, loss, one, per_token
):
    term = features_term(loss, PAIRS, kind=kind)
    found = term.function(STUDENT, TEACHER, BATCH, step=jnp.int32(0), projections=None)
    total = weight = 0.0
    for student_layer, teacher_layer in PAIRS.items():
        ours = np.asarray(STUDENT.features[f"layers.{student_layer}.{kind}"], np.float64)
        theirs = np.asarray(TEACHER.features[f"layers.{teacher_layer}.{kind}"], np.float64)
        for row in range(ROWS):
            for token in np.flatnonzero(MASK[row]):
                total += WEIGHT[row] * one(ours, theirs, row, token)
                weight += WEIGHT[row] * per_token
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    np.testing.assert_allclose(found.value(), total / weight, rtol=1e-5)


def test_taps_of_all_pairs_are_asked_for():
    objective = Objective({"hidden": features_term(losses.hidden_mse, PAIRS)})
    assert objective.student_taps == ("layers.0.hidden", "layers.1.hidden")
    assert objective.teacher_taps() == ("layers.1.hidden", "layers.3.hidden")


def test_temperatures_move_with_the_step():
    schedule = optax.linear_schedule(4.0, 1.0, 3)
    term = logits_term(losses.forward_kl, temperature=schedule)
    for step, temperature in enumerate((4.0, 3.0, 2.0, 1.0)):
        given = {"step": jnp.int32(step), "projections": None}
        found = term.function(STUDENT, TEACHER, BATCH, **given)
        p, q = (
            np.exp(np.asarray(side.logits, np.float64) / temperature) for side in (TEACHER, STUDENT)
        )
        p, q = (side / side.sum(-1, keepdims=True) for side in (p, q))
        values = temperature**2 * (p * np.log(p / q)).sum(-1)
        expected = np.average(values, weights=WEIGHT)
        np.testing.assert_allclose(found.value(), expected, rtol=1e-5)


def test_weights_move_with_the_step_and_each_term_is_divided_by_its_own():
    term = task_term(losses.cross_entropy, weight=optax.linear_schedule(2.0, 0.0, 4))
    other = features_term(losses.hidden_mse, PAIRS, weight=3.0)
    objective = Objective({"hard": term, "hidden": other})
    batch = {**BATCH, "labels": jnp.array([0, 2, 1, 1])}
    for step in range(5):
        means = objective.means(STUDENT, TEACHER, batch, step=jnp.int32(step))
        divisors = {name: mean.weight for name, mean in means.items()}
        expected = (2 - step / 2) * means["hard"].value() + 3 * means["hidden"].value()
        found = objective.total(means, divisors, jnp.int32(step))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
