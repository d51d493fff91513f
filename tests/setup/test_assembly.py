"""One training gives the same on every mesh, and every device holds its own part of it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError
from jaxdistill.models.registry import build_model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import check_length, mesh_of
from jaxdistill.planning.compiled.hlo import parse
from jaxdistill.planning.compiled.loops import walk
from jaxdistill.setup.assembly import assemble
from jaxdistill.setup.facts import Facts
from jaxdistill.setup.resolve import resolve

ROWS, LENGTH, STEPS = 8, 16, 50
LAYOUTS = {
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


def config_of(family, train, layout):
    speaks = family != "bert"
    return check(
        {
            "task": "language_model" if speaks else "classification",
            "data": {"train": "unread"},
            "teacher": {"model": {"family": family}},
            "student": {"model": {"family": family}},
            "train": {"learning_rate": 1e-3, "schedule": "constant", **train},
            "parallel": layout,
        }
    )


@functools.cache
def models_of(family):
    options = {"head": "lm", "logits": False} if family != "bert" else {"num_labels": 2}
    sizes = {**SIZES[family], "family": family}
    if family == "bert":
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return build_model({**sizes, "intermediate_size": 32}, seed=1, **options), build_model(
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


def joint_of(family, *, train=None, **layout):
    config = config_of(family, train or {}, layout)
    mesh = mesh_of(config.parallel.sizes, jax.devices()[: 8 if layout else 1])
    student, teacher = models_of(family)
    setup = resolve(config, config.train, Facts(), student, teacher, total_steps=STEPS)
    return assemble(setup, mesh), student, setup


def start(family, **layout):
    """Return what a step takes: the joint, its first state, the teacher and the batches."""
    joint, student, setup = joint_of(family, **layout)
    state, frozen = joint.start(student, seed=0)
    teachers = sharding.place({"teacher": setup.teacher.params}, joint.frozen_sharding.teachers)
    return (
        joint,
        state,
        dataclasses.replace(frozen, teachers=teachers),
        [compilation.place_batch(batch, joint.mesh) for batch in batches_of(family)],
    )


def losses_of(step, state, frozen, batches):
    found = []
    for index in range(STEPS):
        state, metrics = step(state, frozen, batches[index % len(batches)])
        found.append(metrics["loss"])
    return np.array([float(mean.total / mean.weight) for mean in jax.device_get(found)])


@functools.cache
def alone(family):
    joint, *arguments = start(family)
    return losses_of(joint.compiled(), *arguments)


def assert_same(losses, expected):
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(losses[[0, -1]], expected[[0, -1]], rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("family", SIZES)
def test_every_layout_trains_the_same(family, layout):
    joint, *arguments = start(family, **layout)
    assert joint.mesh.size == 8
    assert_same(losses_of(joint.compiled(), *arguments), alone(family))


@pytest.mark.slow
@pytest.mark.parametrize("family", SIZES)
def test_pmap_trains_the_same(family):
    joint, student, setup = joint_of(family, strategy="pmap")
    params = {"student": student.params, "projections": {}}
    state = joint.make_state(params, None, None, jax.random.key(0))
    arguments = compilation.replicate(state), compilation.replicate(setup.teacher.params)
    losses = losses_of(compilation.pmap_step(joint.step), *arguments, batches_of(family))
    assert_same(losses, alone(family))


@pytest.mark.slow
def test_a_teacher_spread_wide_or_on_the_host_teaches_the_same():
    """And of the student only the optimizer's state is shared."""
    layout = {"data": 2, "fsdp": 4, "share": "optimizer"}
    for teacher in ({"teacher": "wide"}, {"teacher": "whole", "teacher_memory": "host"}):
        joint, state, *arguments = start("qwen3", **layout, **teacher)
        assert shares(state.params) == 1
        assert shares(state.opt_state) >= 3.9
        assert shares(arguments[0]) == (8 if teacher["teacher"] == "wide" else 1)
        kind = jax.tree.leaves(arguments[0])[0].sharding.memory_kind
        assert (kind == "pinned_host") == ("teacher_memory" in teacher)
        assert_same(losses_of(joint.compiled(), state, *arguments), alone("qwen3"))


def shares(tree):
    """Return how many times smaller than the whole a device's part is."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
    parts = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    return sum(leaf.nbytes for leaf in leaves) / parts


@pytest.mark.slow
def test_fsdp_splits_parameters_optimizer_and_teacher():
    joint, state, frozen, batches = start("qwen3", fsdp=8)
    for tree in (state.params, state.opt_state, frozen):
        assert shares(tree) >= 7.5
    program = joint.compiled().lower(state, frozen, batches[0]).compile()
    gathered = [
        array.dims
        for visit in walk(parse(program.as_text()))
        if visit.line.opcode.startswith("all-gather")
        for array in visit.line.arrays
    ]
    assert (1, 32, 32) in gathered, "layers are gathered one by one"
    # Stacked as the optimizer keeps them they never are, nor [rows, length, vocabulary].
    assert all(len(dims) < 3 or dims[0] == 1 or 96 not in dims for dims in gathered)
    assert not {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 3} & set(
        gathered
    )
    # Tables and heads of both models once, and those of the optimizer never.
    assert sum(sorted(dims) == [32, 96] for dims in gathered) == 4
    after, _ = program(state, frozen, batches[0])
    assert shares(after.params) >= 7.5
    assert shares(after.opt_state) >= 7.5


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"data": 3, "fsdp": 2, "tensor": 2}, "data=3 fsdp=2 tensor=2, 12 devices, but 8 are"),
        ({"data": -1, "fsdp": 3}, r"3 do not divide 8 devices.*one of \[1, 2, 4, 8\]"),
        ({"data": 1, "tensor": 4}, r"tensor: got 4, but the teacher has 2 heads.*\[1, 2\]"),
    ],
)
def test_layouts_that_cannot_work(layout, message):
    with pytest.raises(ConfigError, match=message):
        joint_of("qwen3", **layout)


def test_batches_that_a_layout_cannot_hold():
    mesh = mesh_of({"data": 2, "fsdp": 2, "sequence": 2, "tensor": 1})
    batch = {"input_ids": np.zeros((6, 16), np.int32)}
    with pytest.raises(ConfigError, match=r"6 rows of 'input_ids' do not divide over 4 .*4 or 8"):
        compilation.place_batch(batch, mesh)
    with pytest.raises(ConfigError, match=r"sequence: got 3, .* rows of 16 tokens"):
        check_length(16, 3)
