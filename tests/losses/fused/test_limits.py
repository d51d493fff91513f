"""Fused losses where others break: absent classes, sums in low precision, memory, bad arguments."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fused_cases import (
    assert_close,
    case,
    compiled,
    dense,
    distance,
    logits_of,
    mix_of,
    run,
    run_float64,
)

from jaxdistill import losses
from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.losses import FusedTerm, Projection, fused_loss


def with_fields(side, **fields):
    return Projection(**{**vars(side), **fields})


@pytest.mark.mostly_slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_classes_at_minus_infinity_are_absent(low_memory):
    inputs = case(seed=4)
    for side, absent in (("student", [3, 7]), ("teacher", [3, 7, 11])):
        bias = np.array(inputs[side].bias)
        bias[absent] = -np.inf
        inputs[side] = with_fields(inputs[side], bias=jnp.asarray(bias))
    inputs["labels"] = np.where(np.isin(inputs["labels"], [3, 7]), 0, inputs["labels"])
    for mix in ("forward_kl", "jsd", "total_variation", "cross_entropy"):
        expected = run_float64(mix, inputs, 2.0)
        found = run(fused_loss, mix, inputs, 2.0, chunk=4, low_memory=low_memory)
        assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("mix", ["forward_kl", "cross_entropy"])
def test_nan_is_not_hidden(mix):
    """With this many classes the largest of a row of NaN is -inf on CPUs, as of an empty row."""
    inputs = case(tokens=16, columns=(256, 256), seed=4)
    side = "student" if mix == "cross_entropy" else "teacher"
    hidden = np.full(inputs[side].hidden.shape, np.nan, np.float32)
    inputs[side] = with_fields(inputs[side], hidden=jnp.asarray(hidden))
    value, _, gradients = run(fused_loss, mix, inputs, 2.0)
    assert np.isnan(value)
    assert all(np.isnan(gradient).any() for gradient in gradients)


@pytest.mark.slow
def test_what_the_other_side_cannot_reach_is_infinite_with_a_finite_gradient():
    inputs = case(seed=5)
    bias = np.array(inputs["teacher"].bias)
    bias[5] = -np.inf
    inputs["teacher"] = with_fields(inputs["teacher"], bias=jnp.asarray(bias))
    mix, _, gradients = run(fused_loss, "reverse_kl", inputs, 2.0, chunk=4)
    _, _, expected = run(dense, "reverse_kl", inputs, 2.0)
    assert np.isposinf(mix)
    for left, right in zip(gradients, expected, strict=True):
        assert distance(left, right) < 1e-5


@pytest.mark.slow
def test_sums_in_bfloat16_would_not_do():
    """The head's gradient summed over chunks in its own dtype misses what float32 sums keep."""
    inputs = case(tokens=2048, widths=(16, 24), columns=(64, 64), dtype=jnp.bfloat16, seed=1)
    inputs["where"][:] = 1
    _, _, expected = run_float64("forward_kl", inputs, 2.0)
    _, _, found = run(fused_loss, "forward_kl", inputs, 2.0, chunk=4)

    def loss(logits, theirs):
        return losses.forward_kl(logits, theirs, temperature=2.0).sum()

    student, teacher = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), inputs[side])
        for side in ("student", "teacher")
    )
    slopes = jax.jit(jax.grad(loss))(logits_of(student), logits_of(teacher))
    total = jnp.zeros(student.weights.shape, jnp.bfloat16)
    for start in range(0, 2048, 4):
        part = student.hidden[start : start + 4].T @ slopes[start : start + 4]
        total = total + part.astype(jnp.bfloat16)
    assert distance(found[1], expected[1]) < 6e-3
    assert distance(total, expected[1]) > 2e-2


@pytest.mark.slow
def test_no_logits_of_all_tokens_and_every_product_once():
    inputs = case(tokens=1030, columns=(200, 200))
    arguments = [*(inputs[name] for name in ("student", "teacher", "labels", "where")), 2.0]
    for low_memory, count in ((False, 4), (True, 6)):
        settings = (("chunk", 6), ("low_memory", low_memory))
        text = compiled(fused_loss, "all", settings).lower(*arguments).as_text()
        assert "tensor<6x200xf32>" in text
        assert "tensor<1030x200x" not in text
        assert len(re.findall(r"stablehlo\.dot_general", text)) == count
    assert "tensor<1030x200xf32>" in compiled(dense, "all").lower(*arguments).as_text()


def test_a_frozen_head_leaves_no_gradient_of_its_size():
    """What is not asked for is not computed: the compiler drops the unused sum."""
    inputs = case(tokens=64, widths=(32, 12), columns=(500, 500), bias=False)
    student, teacher = inputs["student"], inputs["teacher"]

    def mixed(hidden, weights):
        side = Projection(hidden, weights)
        terms = mix_of("forward_kl", 2.0)
        return fused_loss(side, teacher, terms, where=inputs["where"], chunk=16).mix

    def program(arguments):
        step = jax.jit(jax.grad(mixed, arguments))
        return step.lower(student.hidden, student.weights).compile().as_text()

    assert re.search(r"f32\[32,500\][^\n]* dot\(", program((0, 1)))
    assert not re.search(r"f32\[32,500\][^\n]* dot\(", program((0,)))


def test_temperatures_and_weights_get_no_gradient():
    inputs = case()

    def mixed(temperature, weight):
        terms = {"a": FusedTerm("forward_kl", weight, temperature)}
        return fused_loss(inputs["student"], inputs["teacher"], terms).mix

    assert [float(x) for x in jax.grad(mixed, (0, 1))(2.0, 1.0)] == [0.0, 0.0]


def test_cross_entropy_alone_needs_no_teacher():
    inputs = case()
    terms = mix_of("cross_entropy", 1.0)
    settings = {"labels": inputs["labels"], "where": inputs["where"]}
    alone = fused_loss(inputs["student"], None, terms, **settings)
    assert alone.mix == fused_loss(inputs["student"], inputs["teacher"], terms, **settings).mix


KL = {"kl": FusedTerm("forward_kl")}
CE = {"ce": FusedTerm("cross_entropy")}


@pytest.mark.parametrize(
    ("error", "message", "terms", "changes"),
    [
        (ConfigError, "terms: got none", {}, {}),
        (ConfigError, r"terms\['a'\].loss: got 'kl'", {"a": FusedTerm("kl")}, {}),
        (ConfigError, r"temperature: got 2.0 for", {"a": FusedTerm("cross_entropy", 1, 2.0)}, {}),
        (ConfigError, r"temperature: got 0", {"a": FusedTerm("forward_kl", 1, 0)}, {}),
        (ConfigError, r"beta: got 1", {"a": FusedTerm("jsd", beta=1)}, {}),
        (ConfigError, "chunk: got 0", KL, {"chunk": 0}),
        (
            ConfigError,
            r"vocabulary: got 51, expected a number in \[1, 50\]",
            KL,
            {"vocabulary": 51},
        ),
        (ModelError, "teacher: got None", KL, {"teacher": None}),
        (DataError, "labels: got None", CE, {"labels": None}),
        (
            DataError,
            r"labels: got shape \(12,\), expected \(13,\)",
            CE,
            {"labels": np.zeros(12, int)},
        ),
        (DataError, "labels: got dtype float32", CE, {"labels": np.zeros(13, np.float32)}),
        (DataError, r"where: got shape \(13, 1\)", KL, {"where": np.ones((13, 1))}),
    ],
)
def test_bad_arguments(error, message, terms, changes):
    arguments = {**case(), **changes}
    student, teacher = arguments.pop("student"), arguments.pop("teacher")
    with pytest.raises(error, match=message):
        fused_loss(student, teacher, terms, **arguments)


def test_shapes_that_do_not_fit():
    inputs = case()
    student, teacher = inputs["student"], inputs["teacher"]
    for side, message in (
        (with_fields(student, weights=student.weights.T), r"student.weights: got shape \(50, 8\)"),
        (with_fields(student, bias=jnp.zeros(49)), r"student.bias: got shape \(49,\)"),
        (with_fields(student, hidden=student.hidden[:4]), r"teacher.hidden: got shape \(13, 12\)"),
        (with_fields(student, hidden=student.hidden[:0]), "expected at least one token"),
    ):
        shorter = (
            teacher if side.hidden.shape[0] else with_fields(teacher, hidden=teacher.hidden[:0])
        )
        with pytest.raises((ModelError, DataError), match=message):
            fused_loss(side, shorter, KL)
    narrow = with_fields(teacher, weights=teacher.weights[:, :40], bias=teacher.bias[:40])
    with pytest.raises(ModelError, match=r"got 40 columns, expected 50.*vocabulary="):
        fused_loss(student, narrow, KL)
