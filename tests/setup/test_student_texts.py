"""A student that learns from its own texts, from none of them to all."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxdistill import losses
from jaxdistill.config.generation import OnPolicyConfig
from jaxdistill.config.load import check
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.on_policy_step import make_on_policy_step
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.engine.terms_fused import TokenLoss, fused_term
from jaxdistill.generation.rollout import make_continue
from jaxdistill.models.registry import build_model
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.setup.assembly import assemble
from jaxdistill.setup.facts import Facts
from jaxdistill.setup.resolve import resolve
from jaxdistill.setup.student_texts import writing_step

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


def data():
    ids = np.random.default_rng(0).integers(1, 20, (ROWS, LENGTH)).astype(np.int32)
    mask = np.ones((ROWS, LENGTH), np.float32)
    mask[:, -1] = 0
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "labels": np.roll(ids, -1, 1),
        "loss_mask": mask,
    }


SHARP = {**SPEC, "initializer_range": 0.5}


def written(prompt=PROMPT, **options):
    """Return the batch that a step gets whose student writes all of them."""

    def learn(state, frozen, batch, *, axis_name=None):
        return state, {"batch": batch}

    student = build_model(SHARP, seed=2, head="lm")
    wanted = OnPolicyConfig(share=1.0, prompt_tokens=prompt, **options)
    state = TrainState.create(student.params, optax.sgd(0.1))
    _, told = jax.jit(writing_step(learn, wanted, student, 1))(state, None, data())
    return jax.device_get(told["batch"])


def likeliest(prompt=PROMPT):
    """Return the texts of which every token is the likeliest after those before it."""
    student, batch = build_model(SHARP, seed=2, head="lm"), data()
    apply, ids = jax.jit(student.apply), batch["input_ids"].copy()
    for place in range(prompt, LENGTH):
        logits = apply(student.params, {**batch, "input_ids": ids}).logits
        ids[:, place] = np.asarray(logits)[:, place - 1].argmax(-1)
    return ids


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-6}], ids=str
)
def test_tokens_are_drawn_as_the_configuration_says(options):
    """Each of these leaves the likeliest one alone, and tokens of all the others are not."""
    batch = written(**options)
    np.testing.assert_array_equal(batch["input_ids"], likeliest())
    expected = (np.arange(LENGTH) >= PROMPT - 1) & (np.arange(LENGTH) < LENGTH - 1)
    np.testing.assert_array_equal(batch["loss_mask"] > 0, np.tile(expected, (ROWS, 1)))


@pytest.mark.slow
def test_prompts_and_what_is_written_are_as_long_as_the_configuration_says():
    batch = written(prompt=5, max_new_tokens=2, temperature=0.0)
    np.testing.assert_array_equal(batch["input_ids"][:, :7], likeliest(5)[:, :7])
    places = np.arange(LENGTH)
    expected = np.tile((places == 4) | (places == 5), (ROWS, 1))
    np.testing.assert_array_equal(batch["loss_mask"] > 0, expected)
    assert (written()["input_ids"] != likeliest()).any()


@pytest.mark.slow
def test_texts_end_and_are_filled_and_spelt_as_the_data_say():
    """As the student of an assembled step reads them: its vocabulary is smaller than its head."""
    seen, ends, pad = [], 3, 7
    student = build_model(SHARP, seed=2, head="lm", logits=False)

    def watched(params, batch, **options):
        jax.debug.callback(seen.append, batch["input_ids"])
        return student.apply(params, batch, **options)

    config = check(
        {
            "task": "language_model",
            "data": {"train": "unread"},
            "teacher": {"model": {"family": "gpt2"}},
            "student": {"model": {"family": "gpt2"}},
            "objective": {"soft": {"loss": "forward_kl"}},
            "on_policy": {"share": 1.0, "prompt_tokens": PROMPT, "temperature": 9.0},
        }
    )
    facts = Facts(ends=(ends,), pad_id=pad, vocabulary=20)
    watching = dataclasses.replace(student, apply=watched)
    setup = resolve(config, config.train, facts, watching, student, total_steps=1)
    made = assemble(setup, make_mesh(1, devices=jax.devices()[:1]))
    state, frozen = made.start(student, seed=0)
    frozen = dataclasses.replace(frozen, teachers={"teacher": setup.teacher.params})
    step = jax.jit(made.step)
    for seed in range(4):
        step(dataclasses.replace(state, rng=jax.random.key(seed)), frozen, data())
    jax.effects_barrier()
    texts = np.concatenate(seen)[:, PROMPT:]
    ended = np.cumsum(texts == ends, axis=1) - (texts == ends) > 0
    assert ended.any()
    assert (texts[ended] == pad).all()
    assert set(texts[~ended].tolist()) == set(range(20))
