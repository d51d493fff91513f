"""Token losses without logits, as terms: equal to dense ones, for any split and device count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import losses
from jaxdistill.engine.objective import Objective, logits_term, task_term
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.engine.terms_fused import TokenLoss, fused_term
from jaxdistill.models.registry import build_model
from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh

SPEC = {
    "family": "gpt2",
    "vocab_size": 50,
    "n_positions": 12,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
# Three documents in the first row, one and padding in the second, and so on.
SEGMENTS = np.array(
    [[1] * 4 + [2] * 3 + [3] * 5, [1] * 7 + [0] * 5, [1] * 12, [1] * 2 + [2] * 9 + [0]], np.int32
)


def make_batch(rows: int = 8) -> dict[str, np.ndarray]:
    """Packed rows whose labels are written down document by document."""
    random = np.random.default_rng(0)
    segments = np.concatenate([SEGMENTS] * (rows // 4))
    ids = random.integers(0, 50, segments.shape).astype(np.int32)
    labels, positions = np.full_like(ids, -1), np.zeros_like(ids)
    for row in range(rows):
        for segment in range(1, segments[row].max() + 1):
            places = np.flatnonzero(segments[row] == segment)
            labels[row, places[:-1]] = ids[row, places[1:]]
            positions[row, places] = np.arange(len(places))
    labels[3, :4] = -1  # a prompt
    weight = np.ones(rows, np.float32)
    weight[-1] = 0.0
    return {
        "input_ids": ids,
        "attention_mask": (segments > 0).astype(np.int32),
        "segment_ids": segments,
        "position_ids": positions,
        "labels": labels,
        "loss_mask": ((labels >= 0) * weight[:, None]).astype(np.float32),
        "weight": weight,
    }


def models(*, logits: bool):
    student = build_model(SPEC, seed=0, logits=logits)
    teacher = build_model({**SPEC, "n_embd": 32}, seed=1, logits=logits)
    return student, teacher


def fused() -> Objective:
    parts = {
        "soft": TokenLoss("forward_kl", 0.7, lambda step: 2.0 + step),
        "other": TokenLoss("jsd", 0.2, 1.0, 0.3),
        "hard": TokenLoss("cross_entropy", 0.3),
    }
    return Objective({"fused": fused_term(parts)})


def dense() -> Objective:
    return Objective(
        {
            "soft": logits_term(losses.forward_kl, temperature=lambda step: 2.0 + step, weight=0.7),
            "other": logits_term(losses.jsd, temperature=1.0, weight=0.2, beta=0.3),
            "hard": task_term(losses.cross_entropy, weight=0.3),
        }
    )


def run(objective, *, logits=False, accumulate=1, devices=None, pmap=False):
    """Return the metrics and the gradient of one step."""
    student, teacher = models(logits=logits)
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        student.apply, optimizer, objective, teacher=teacher.apply, accumulate=accumulate
    )
    state = TrainState.create(student.params, optimizer)
    batch = make_batch()
    if pmap:
        found, metrics = compilation.pmap_step(step)(
            compilation.replicate(state), compilation.replicate(teacher.params), batch
        )
        found = compilation.unreplicate(found)
    elif devices is not None:
        mesh = make_mesh(devices)
        placed = compilation.place_batch(batch, mesh)
        found, metrics = compilation.compile_step(step, mesh)(state, teacher.params, placed)
    else:
        found, metrics = jax.jit(step)(state, teacher.params, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), found.student, student.params)
    return {name: float(mean.value()) for name, mean in metrics.items()}, moved


def assert_close(one, other, tolerance=2e-6):
    for name in ("loss", "soft", "other", "hard", "gradient_norm"):
        np.testing.assert_allclose(one[0][name], other[0][name], rtol=tolerance, err_msg=name)
    for ours, theirs in zip(*map(jax.tree.leaves, (one[1], other[1])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.fixture(scope="module")
def reference():
    return run(fused())


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_whole_logits(reference):
    assert_close(reference, run(dense(), logits=True))
    metrics, _ = reference
    total = 0.7 * metrics["soft"] + 0.2 * metrics["other"] + 0.3 * metrics["hard"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    np.testing.assert_allclose(metrics["fused"], total, rtol=1e-6)


@pytest.mark.slow
def test_microbatches_change_nothing(reference):
    assert_close(reference, run(fused(), accumulate=4))


@pytest.mark.slow
def test_devices_change_nothing(reference):
    mesh = make_mesh(4)
    terms = {
        "soft": TokenLoss("forward_kl", 0.7, lambda step: 2.0 + step),
        "other": TokenLoss("jsd", 0.2, 1.0, 0.3),
        "hard": TokenLoss("cross_entropy", 0.3),
    }
    shared = Objective({"fused": fused_term(terms, mesh=mesh)})
    assert_close(reference, run(shared, devices=4, accumulate=2))
    assert_close(reference, run(fused(), pmap=True))


def test_the_cross_entropy_is_that_of_each_document_alone(reference):
    # In float64, every document in a row of its own, its next tokens looked up by hand.
    student, _ = models(logits=True)
    apply = jax.jit(lambda batch: student.apply(student.params, batch).logits)
    batch, total, count = make_batch(), 0.0, 0
    for row in range(len(batch["input_ids"])):
        if batch["weight"][row] == 0:
            continue
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            places = np.flatnonzero(batch["segment_ids"][row] == segment)
            ids, mask = np.zeros((2, 1, 12), np.int32)
            ids[0, : len(places)] = batch["input_ids"][row, places]
            mask[0, : len(places)] = 1
            logits = apply({"input_ids": ids, "attention_mask": mask})
            logits = np.asarray(logits, np.float64)[0]
            shares = np.exp(logits - logits.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            for place in range(len(places) - 1):
                if row == 3 and places[place] < 4:
                    continue  # the prompt
                total -= np.log(shares[place, ids[0, place + 1]])
                count += 1
    np.testing.assert_allclose(reference[0]["hard"], total / count, rtol=1e-5)


@pytest.mark.slow
def test_padded_vocabularies_are_compared_over_the_real_classes():
    student, _ = models(logits=False)
    wide = build_model({**SPEC, "vocab_size": 64}, seed=1, logits=False)
    batch = {name: jnp.asarray(leaf) for name, leaf in make_batch().items()}
    term = fused_term({"soft": TokenLoss("forward_kl")}, vocabulary=48)
    outputs = [model.apply(model.params, batch) for model in (student, wide)]
    found = term.function(*outputs, batch, step=jnp.int32(0), projections=None)
    logits = [side.hidden @ side.head().weights for side in outputs]
    values = losses.forward_kl(*(side[..., :48] for side in logits))
    expected = (values * batch["loss_mask"]).sum() / batch["loss_mask"].sum()
    np.testing.assert_allclose(found.mean.value(), expected, rtol=1e-5)
