"""One training gives the same on every mesh, and every device holds its own part of it."""

import functools

import jax
import numpy as np
import pytest

from jaxdistill.config_file import check
from jaxdistill.engine import parallel, sharding
from jaxdistill.engine.mesh import mesh_of
from jaxdistill.joint import live_teaching, make_joint
from jaxdistill.models.registry import build_model

ROWS, LENGTH, STEPS = 8, 16, 50
MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"fsdp": 8},
    "tensor=2 fsdp=4": {"tensor": 2, "fsdp": 4},
    "sequence=2 data=4": {"sequence": 2, "data": 4},
}
SIZES = {
    "bert": {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    },
    "qwen3": {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    },
}


def config_of(family, **parallel_):
    speaks = family != "bert"
    return check(
        {
            "task": "language_model" if speaks else "classification",
            "data": {"train": "unread"},
            "teacher": {"model": {"family": family}},
            "student": {"model": {"family": family}},
            "train": {"learning_rate": 1e-3, "dropout": 0.0, "schedule": "constant"},
            "parallel": parallel_,
        }
    )


@functools.cache
def models_of(family):
    options = {"head": "lm", "logits": False} if family != "bert" else {"num_labels": 2}
    sizes = {**SIZES[family], "family": family}
    if family == "bert":
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return build_model({**sizes, "num_hidden_layers": 1}, seed=1, **options), build_model(
        sizes, seed=0, **options
    )


@functools.cache
def batches_of(family):
    """Rows of unequal length, some of weight 0 or without any token to learn."""
    random, batches = np.random.default_rng(0), []
    for _ in range(4):
        ids = random.integers(1, 96, (ROWS, LENGTH)).astype(np.int32)
        lengths = random.integers(2, LENGTH + 1, ROWS)
        real = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
        batch = {"input_ids": ids * real}
        if family == "bert":
            weight = (random.random(ROWS) < 0.8).astype(np.float32)
            labels = random.integers(0, 2, ROWS).astype(np.int32)
            batch |= {"attention_mask": real, "labels": labels, "weight": weight}
        else:
            mask = real * (random.random(ROWS) < 0.8)[:, None].astype(np.int32)
            labels = np.where(mask, np.roll(ids, -1, 1), -100).astype(np.int32)
            positions = np.arange(LENGTH, dtype=np.int32) * real
            batch |= {"segment_ids": real, "position_ids": positions}
            batch |= {"labels": labels, "loss_mask": mask.astype(np.float32)}
        batches.append(batch)
    return batches


def joint_of(family, mesh=None, **parallel_):
    config = config_of(family, **parallel_)
    mesh = mesh_of(config.parallel.sizes, jax.devices()[: 1 if not parallel_ else 8])
    student, teacher = models_of(family)
    teaching = live_teaching(config, student, teacher, mesh)
    joint = make_joint(config, config.train, student, teaching, mesh, total_steps=STEPS)
    return joint, student, teaching


def trained(family, **parallel_):
    """Return the loss of each step, the last state and the compiled program."""
    joint, student, teaching = joint_of(family, **parallel_)
    state = joint.start(student, teaching.projections, seed=0)
    teacher = sharding.place(teaching.params, joint.teacher_sharding)
    batches = [parallel.place_batch(batch, joint.mesh) for batch in batches_of(family)]
    program = joint.compiled().lower(state, teacher, batches[0]).compile()
    found = []
    for step in range(STEPS):
        state, metrics = program(state, teacher, batches[step % len(batches)])
        found.append(metrics["loss"])
    losses = [float(mean.total / mean.weight) for mean in jax.device_get(found)]
    return np.array(losses), state, teacher, program


@functools.cache
def alone(family):
    losses, state, _, _ = trained(family)
    return losses, jax.device_get(state.params)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("family", SIZES)
def test_every_mesh_trains_the_same(family, sizes):
    losses, _, _, _ = trained(family, **sizes)
    expected, _ = alone(family)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(losses[:1], expected[:1], rtol=1e-6)
    np.testing.assert_allclose(losses[-1], expected[-1], rtol=2e-6)
