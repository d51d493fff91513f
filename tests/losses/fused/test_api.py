"""Fused losses against the dense ones in float64: values, totals and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fused_cases import (
    SINGLE,
    TEMPERATURES,
    assert_close,
    case,
    distance,
    mix_of,
    run,
    run_float64,
)

from jaxdistill.losses import Projection, fused_loss
from jaxdistill.losses.fused import api as fused

MODES = {"normal": {"chunk": 4}, "low memory": {"chunk": 4, "low_memory": True}}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mix", [*SINGLE, "all"])
def test_equals_the_dense_losses(mix, mode):
    inputs = case()  # 13 tokens in chunks of 4
    for temperature in TEMPERATURES:
        expected = run_float64(mix, inputs, temperature)
        assert_close(run(fused_loss, mix, inputs, temperature, **MODES[mode]), expected, 1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        {"softcap": 5.0, "scale": 0.5},
        {"bias": False, "transposed": (True, False)},
        {"bias": False, "transposed": (False, True), "scale": 2.0},
        {"transposed": (True, True), "softcap": 4.0},
    ],
)
def test_heads_of_every_shape(settings, mode):
    inputs = case(**settings)
    expected = run_float64("all", inputs, 2.0)
    assert_close(run(fused_loss, "all", inputs, 2.0, **MODES[mode]), expected, 1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("columns", "mode"),
    [
        ((50, 64), "normal"),
        ((64, 50), "low memory"),
        ((64, 56), "normal"),
        ((64, 56), "low memory"),
    ],
)
def test_padding_of_the_vocabulary_does_not_exist(columns, mode):
    inputs = case(columns=columns, softcap=6.0)
    expected = run_float64("all", inputs, 2.0, vocabulary=50)
    found = run(fused_loss, "all", inputs, 2.0, vocabulary=50, **MODES[mode])
    assert_close(found, expected, 1e-5)
    _, weights, bias = found[2]
    assert not np.asarray(weights)[:, 50:].any()
    assert not np.asarray(bias)[50:].any()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_everything_at_once(dtype, tolerance, mode):
    settings = {"softcap": 5.0, "scale": 0.5, "transposed": (True, False)}
    inputs = case(tokens=14, columns=(64, 56), dtype=dtype, seed=6, **settings)
    inputs["where"][4:8] = 0  # a whole chunk; the last reaches back over two tokens
    for temperature in TEMPERATURES:
        expected = run_float64("all", inputs, temperature, vocabulary=50)
        found = run(fused_loss, "all", inputs, temperature, vocabulary=50, **MODES[mode])
        assert_close(found, expected, tolerance)


@pytest.mark.parametrize("mix", SINGLE)
def test_bfloat16_of_every_divergence(mix):
    inputs = case(dtype=jnp.bfloat16, seed=7)
    for temperature in TEMPERATURES:
        expected = run_float64(mix, inputs, temperature)
        assert_close(run(fused_loss, mix, inputs, temperature, chunk=4), expected, 2e-2)


@pytest.mark.slow
def test_low_memory_mode_in_blocks_that_do_not_divide_the_vocabulary(monkeypatch):
    # Blocks are of at least 128 columns: 300 are two and one that reaches back.
    inputs = case(tokens=37, widths=(600, 5), columns=(300, 310), seed=3)
    expected = run_float64("all", inputs, 2.0, vocabulary=290)
    monkeypatch.setattr(fused, "_BLOCK_BYTES", 1)
    found = run(fused_loss, "all", inputs, 2.0, vocabulary=290, low_memory=True, chunk=16)
    assert_close(found, expected, 1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mode", MODES)
def test_what_masked_tokens_hold_is_never_looked_at(mode):
    inputs = case(tokens=14)
    inputs["where"][4:8] = 0  # a whole chunk
    inputs["where"][12:] = 0
    expected = run_float64("all", inputs, 2.0)
    masked = inputs["where"] == 0
    for side in ("student", "teacher"):
        hidden = np.array(inputs[side].hidden)
        hidden[masked] = np.nan
        fields = {**vars(inputs[side]), "hidden": jnp.asarray(hidden)}
        inputs[side] = Projection(**fields)
    found = run(fused_loss, "all", inputs, 2.0, **MODES[mode])
    assert_close(found, expected, 1e-5)
    assert not np.asarray(found[2][0])[masked].any()


@pytest.mark.parametrize("mode", MODES)
def test_all_tokens_masked(mode):
    inputs = case()
    inputs["where"][:] = 0
    for leaf in jax.tree.leaves(run(fused_loss, "all", inputs, 2.0, **MODES[mode])):
        assert not np.asarray(leaf).any()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("chunk", [1, 5, 13, 100, None])
def test_any_chunk_gives_the_same(chunk):
    inputs = case()
    expected = run_float64("all", inputs, 2.0)
    assert_close(run(fused_loss, "all", inputs, 2.0, chunk=chunk), expected, 1e-5)


@pytest.mark.slow
def test_leading_axes_masks_of_bool_and_values_without_gradient():
    inputs = case(tokens=12)
    keep = inputs["where"] > 0
    expected = run_float64("all", {**inputs, "where": keep.astype(np.float32)}, 2.0)

    def folded(side):
        return Projection(**{**vars(side), "hidden": side.hidden.reshape(3, 4, -1)})

    found = fused_loss(
        folded(inputs["student"]),
        folded(inputs["teacher"]),
        mix_of("all", 2.0),
        labels=inputs["labels"].reshape(3, 4),
        where=keep.reshape(3, 4),
        chunk=5,
    )
    assert_close(found, expected[:2], 1e-5)


@pytest.mark.slow
def test_bfloat16_with_sums_in_float32():
    inputs = case(tokens=2048, widths=(16, 24), columns=(64, 64), dtype=jnp.bfloat16, seed=1)
    expected = run_float64("all", inputs, 2.0)
    for mode in ({"chunk": 32}, {"chunk": 32, "low_memory": True}):
        found = run(fused_loss, "all", inputs, 2.0, **mode)
        assert found[2][1].dtype == jnp.bfloat16
        assert_close(found, expected, 2e-2)
        # What is left is the rounding of the result and of each chunk's slope, not of a sum.
        assert distance(found[2][1], expected[2][1]) < 6e-3
        assert distance(found[0], expected[0]) < 1e-3


@pytest.mark.slow
def test_gradient_in_the_dtype_of_the_weights():
    inputs = case(tokens=64, dtype=jnp.bfloat16)
    fields = vars(inputs["student"])
    master = {**fields, "weights": fields["weights"].astype(jnp.float32)}
    inputs["student"] = Projection(**master)
    expected = run_float64("all", inputs, 2.0)
    for mode in MODES.values():
        found = run(fused_loss, "all", inputs, 2.0, **mode)
        assert found[2][1].dtype == jnp.float32
        assert found[2][0].dtype == jnp.bfloat16
        assert_close(found, expected, 2e-2)
