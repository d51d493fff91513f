"""A student that learns from its own texts, from none of them to all."""

import jax
import numpy as np
import optax
import pytest

from jaxdistill import losses
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.engine.terms_fused import TokenLoss, fused_term
from jaxdistill.generation.rollout import make_continue
from jaxdistill.models.registry import build_model

STEPS, ROWS, LENGTH, PROMPT = 60, 8, 12, 3
SPEC = {
    "family": "gpt2",
    "vocab_size": 24,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": LENGTH,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jsd"])
def test_a_share_from_none_to_all_lowers_the_reverse_kl_on_the_students_texts(loss):
    teacher = build_model({**SPEC, "initializer_range": 0.5, "tie_word_embeddings": False}, seed=1)
    student = build_model(SPEC, seed=2)
    random = np.random.default_rng(0)
    data = {
        "input_ids": random.integers(0, 24, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), np.int32),
        "loss_mask": np.ones((ROWS, LENGTH), np.int32),
    }
    data["loss_mask"][:, -1] = 0
    data["labels"] = np.roll(data["input_ids"], -1, axis=1)
    write = make_continue(student, prompt_tokens=PROMPT)

    @jax.jit
    def measure(params, batch):
        """Mean reverse KL `[]` over what the student writes, from both models' logits."""
        own = write(params, batch, jax.random.key(9))
        ours = student.apply(params, own).logits
        theirs = teacher.apply(teacher.params, own).logits
        return Mean.of(losses.reverse_kl(ours, theirs), own["loss_mask"]).value()

    optimizer = optax.adam(1e-2)
    objective = Objective({"fused": fused_term({"kl": TokenLoss(loss, beta=0.3)})})
    plain = make_train_step(student.apply, optimizer, objective, teacher=teacher.apply)
    step = jax.jit(make_on_policy_step(plain, write, optax.linear_schedule(0.0, 1.0, STEPS)))
    state = TrainState.create(student.params, optimizer)
    before, shares = float(measure(student.params, data)), []
    for _ in range(STEPS):
        state, metrics = step(state, teacher.params, data)
        shares.append(float(metrics["on_policy"].value()))
        assert metrics["kl"].weight == ROWS * (LENGTH - PROMPT if shares[-1] else LENGTH - 1)
    assert step._cache_size() == 1
    assert np.mean(shares[:20]) < 0.4 < 0.6 < np.mean(shares[-20:])
    after = float(measure(state.student, data))
    assert before > 0.5
    assert after < 0.7 * before
