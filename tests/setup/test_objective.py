"""A configuration's terms have the values that its options say, against PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.torch_terms import value_at, values_of

from jaxdistill.config.load import check
from jaxdistill.config.schema import Config
from jaxdistill.engine.objective import Objective
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.setup import objective as objectives

torch = pytest.importorskip("torch")

ROWS, LENGTH, WIDTH, CLASSES, TOTAL = 4, 3, 6, 7, 10
WEIGHT = np.array([1, 1, 0, 1], np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]], np.float32)
MODEL = {"family": "mlp", "hidden_sizes": [4]}
WARM = {"start": 4.0, "end": 1.0, "over": 0.5}
RISING = {"start": 0.2, "end": 1.0, "over": 8}

TERMS: dict[str, dict[str, Any]] = {
    "forward": {"loss": "forward_kl", "temperature": 3.0, "weight": 0.7},
    "forward, cooling": {"loss": "forward_kl", "temperature": WARM, "weight": RISING},
    "reverse": {"loss": "reverse_kl", "temperature": 2.0},
    "jsd": {"loss": "jsd", "temperature": 2.0, "beta": 0.1},
    "jsd, cooling": {"loss": "jsd", "temperature": WARM, "beta": 0.8, "weight": RISING},
    "hard": {"loss": "cross_entropy", "weight": 0.3},
}
DENSE = {
    "smooth": {"loss": "cross_entropy", "weight": RISING, "label_smoothing": 0.2},
    "logits": {"loss": "mse_logits", "weight": 0.4},
}


def configured(task: str, terms: dict[str, Any], **more: Any) -> Config:
    data = {"train": "nowhere.jsonl"}
    models = {"teacher": {"model": MODEL}, "student": {"model": MODEL}}
    return check({"task": task, "data": data, **models, "objective": terms, **more})


def drawn(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    student, teacher = random.normal(0, 2, (2, *shape)).astype(np.float32)
    return student, teacher


def assert_values(objective: Objective, sides: tuple[Any, Any], batch: Any, wanted: Any) -> None:
    """Compare each term and their weighted sum at the start, on the way, at the end and after."""

    @jax.jit
    def run(step: jax.Array) -> Any:
        means = objective.means(*sides, batch, step=step, projections={})
        divisors = {name: mean.weight for name, mean in means.items()}
        return {name: mean.value() for name, mean in means.items()}, objective.total(
            means, divisors, step
        )

    for step in (0, 1, 4, 7, TOTAL):
        told, total = run(jnp.int32(step))
        values, weights = wanted(step)
        for name, value in values.items():
            np.testing.assert_allclose(told[name], value, rtol=1e-5, err_msg=f"{name} at {step}")
        summed = sum(weights[name] * values[name] for name in values)
        np.testing.assert_allclose(total, summed, rtol=1e-5, err_msg=f"loss at {step}")


def wanted_of(terms: dict[str, Any], logits: Any, labels: np.ndarray, where: np.ndarray) -> Any:
    student, teacher = (torch.tensor(side, dtype=torch.float64) for side in logits)
    given = torch.tensor(labels)

    def wanted(step: int) -> tuple[dict[str, float], dict[str, float]]:
        found = {}
        for name, term in terms.items():
            values = values_of(term, student, teacher, given, step, TOTAL).numpy()
            weights = np.broadcast_to(
                where.reshape(where.shape + (1,) * (values.ndim - where.ndim)), values.shape
            )
            found[name] = float(np.average(values, weights=weights))
        weights = {
            name: value_at(term.get("weight", 1.0), step, TOTAL) for name, term in terms.items()
        }
        return found, weights

    return wanted


@pytest.mark.parametrize("names", [tuple(TERMS), tuple(DENSE)])
def test_terms_of_a_classifier(names):
    terms = {name: (TERMS | DENSE)[name] for name in names}
    logits = drawn(ROWS, CLASSES)
    labels = np.random.default_rng(1).integers(0, CLASSES, ROWS)
    objective = objectives.distillation_objective(configured("classification", terms), TOTAL, set())
    batch = {"labels": jnp.asarray(labels), "weight": jnp.asarray(WEIGHT)}
    sides = (Outputs(logits=jnp.asarray(logits[0])), Outputs(logits=jnp.asarray(logits[1])))
    assert_values(objective, sides, batch, wanted_of(terms, logits, labels, WEIGHT))


def test_terms_of_several_labels():
    terms = {"soft": {"loss": "bernoulli_kl", "temperature": WARM, "weight": RISING}}
    logits = drawn(ROWS, CLASSES)
    objective = objectives.distillation_objective(configured("multilabel", terms), TOTAL, set())
    labels = np.zeros((ROWS, CLASSES), np.float32)
    batch = {"labels": jnp.asarray(labels), "weight": jnp.asarray(WEIGHT)}
    sides = (Outputs(logits=jnp.asarray(logits[0])), Outputs(logits=jnp.asarray(logits[1])))
    assert_values(objective, sides, batch, wanted_of(terms, logits, labels, WEIGHT))


@pytest.mark.parametrize("losses", ["fused", "dense"])
def test_terms_of_a_language_model(losses):
    terms = TERMS | (DENSE if losses == "dense" else {})
    student, teacher = drawn(ROWS, LENGTH, WIDTH)
    heads = drawn(WIDTH, CLASSES)
    logits = (student @ heads[0], teacher @ heads[1])
    labels = np.random.default_rng(1).integers(0, CLASSES, (ROWS, LENGTH))
    config = configured("language_model", terms, losses=losses)
    objective = objectives.distillation_objective(config, TOTAL, set())
    batch = {"labels": jnp.asarray(labels), "loss_mask": jnp.asarray(MASK)}
    sides = [
        Outputs(
            logits=jnp.asarray(whole) if losses == "dense" else None,
            hidden=jnp.asarray(hidden),
            head_parameters=Head(jnp.asarray(head)),
        )
        for whole, hidden, head in zip(logits, (student, teacher), heads, strict=True)
    ]
    assert_values(objective, (sides[0], sides[1]), batch, wanted_of(terms, logits, labels, MASK))


@pytest.mark.parametrize(
    ("task", "losses"),
    [("classification", "dense"), ("language_model", "fused"), ("language_model", "dense")],
)
def test_what_trains_alone_trains_on_the_whole_task_loss(task, losses):
    """The weight that the task's loss has beside the teacher's is none where it is alone."""
    wanted = {"hard": {"loss": "cross_entropy"}}
    shape = (ROWS,) if task == "classification" else (ROWS, LENGTH)
    hidden, _ = drawn(*shape, WIDTH)
    head, _ = drawn(WIDTH, CLASSES)
    labels = np.random.default_rng(1).integers(0, CLASSES, shape)
    outputs = Outputs(
        logits=None if losses == "fused" else jnp.asarray(hidden @ head),
        hidden=jnp.asarray(hidden),
        head_parameters=Head(jnp.asarray(head)),
    )
    where = WEIGHT if task == "classification" else MASK
    batch = {"labels": jnp.asarray(labels), "loss_mask": jnp.asarray(MASK)}
    batch["weight"] = jnp.asarray(WEIGHT)
    logits = (hidden @ head, hidden @ head)
    for terms in (
        {},
        {"soft": {"loss": "forward_kl"}, "hard": {"loss": "cross_entropy", "weight": 0.25}},
        {"soft": {"loss": "forward_kl"}, "hard": {"loss": "cross_entropy", "weight": RISING}},
        {"soft": {"loss": "forward_kl", "weight": 0.5}},
    ):
        # Only language models may be told how.
        told = {"losses": losses} if task == "language_model" else {}
        config = configured(task, terms, **told)
        objective = objectives.supervised_objective(config)
        assert not objective.needs_teacher
        assert_values(objective, (outputs, None), batch, wanted_of(wanted, logits, labels, where))
