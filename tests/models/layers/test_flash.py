"""Attention in blocks equals attention with all scores at once, alone and over a mesh."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.models.layers import flash
from jaxdistill.models.layers.attention import attend_causally, visible
from jaxdistill.models.registry import build_model
from jaxdistill.parallel import sharding
from jaxdistill.parallel.compilation import compile_evaluation
from jaxdistill.parallel.mesh import make_mesh

LENGTH = 512
ONE = make_mesh(1, devices=jax.devices()[:1])
BLOCKWISE = functools.partial(flash.attend_in_blocks, interpret=True)


def inputs(rows=1, heads=4, key_heads=2, width=128, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (heads, key_heads, key_heads, heads)
    arrays = [
        jax.random.normal(key, (rows, LENGTH, count, width), dtype)
        for key, count in zip(keys, sizes, strict=True)
    ]
    return arrays[:3], arrays[3]


def texts(rows=1):
    """Three texts a row, none of which ends where a block does."""
    ends = np.array([[100 + 3 * row, 333 - row] for row in range(rows)])
    index = np.arange(LENGTH)
    return jnp.asarray(1 + (index[None, :, None] >= ends[:, None]).sum(-1), jnp.int32)


def value_and_gradients(attend, operands, weights):
    """The mixed values, and gradients of their sum with those weights."""

    def total(*operands):
        mixed = attend(*operands)
        return (mixed * weights).sum(), mixed

    gradients, mixed = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*operands)
    return mixed, *gradients


def dense(segments, window, **settings):
    def attend(query, key, value):
        mask = visible(segments, LENGTH, window)
        return attend_causally(query, key, value, mask, **settings)[0]

    return attend


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("packed", "window", "softcap", "width"),
    [(False, None, None, 128), (True, None, None, 64), (True, 150, 5.0, 128)],
)
def test_equals_dense_attention_in_value_and_gradients(packed, window, softcap, width):
    operands, weights = inputs(width=width)
    segments = texts() if packed else None
    settings = {"scale": width**-0.5, "softcap": softcap}
    expected = value_and_gradients(dense(segments, window, **settings), operands, weights)
    attend = functools.partial(BLOCKWISE, segments=segments, windows=(window,) * 3, **settings)
    found = value_and_gradients(attend, operands, weights)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_layers_with_different_windows_each_get_theirs():
    operands, _ = inputs(heads=2)
    for window in (64, 2**30):
        attend = functools.partial(
            BLOCKWISE,
            segments=None,
            scale=0.1,
            window=jnp.int32(window),
            windows=(64, None, 64),
        )
        expected = dense(None, window, scale=0.1)(*operands)
        np.testing.assert_allclose(attend(*operands), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "sizes", [{"data": 2, "fsdp": 4}, {"data": 2, "sequence": 2, "tensor": 2}], ids=str
)
def test_equals_dense_attention_over_a_mesh(sizes):
    mesh = make_mesh(**sizes)
    operands, weights = inputs(rows=8, width=64)
    segments = texts(8)
    settings = {"scale": 0.125, "softcap": None}
    expected = value_and_gradients(dense(segments, None, **settings), operands, weights)
    attend = functools.partial(BLOCKWISE, segments=segments, **settings)
    with sharding.on_mesh(mesh):
        found = value_and_gradients(attend, operands, weights)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=5e-5)


def a_decoder(**options):
    return build_model(
        {
            "family": "gemma3_text",
            "vocab_size": 40,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "sliding_window": 100,
            "layer_types": ["sliding_attention", "full_attention"],
            "max_position_embeddings": LENGTH,
        },
        **options,
    )


@pytest.fixture
def on_tpu(monkeypatch):
    """Choose as on a TPU, and run its kernels without one."""
    calls = []

    def attend(*arguments, **settings):
        calls.append(settings["windows"])
        return BLOCKWISE(*arguments, **settings)

    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    monkeypatch.setattr(flash, "attend_in_blocks", attend)
    monkeypatch.setattr(flash, "LEAST", LENGTH)
    return calls


@pytest.mark.slow
def test_a_decoder_takes_it_on_tpu_and_gives_the_same_states(on_tpu):
    batch = {
        "input_ids": jax.random.randint(jax.random.key(1), (1, LENGTH), 0, 40),
        "segment_ids": texts(),
    }
    states = {}
    for choice in ("auto", "dense"):
        model = a_decoder(attention=choice)
        step = compile_evaluation(model.apply, ONE)
        states[choice] = step(model.params, batch).hidden
    assert on_tpu == [(100, None)]
    np.testing.assert_allclose(states["auto"], states["dense"], rtol=1e-4, atol=1e-4)


def test_what_is_in_the_way_is_said(on_tpu, caplog):
    wanted = functools.partial(flash.wanted, choice="auto", dropped=False)
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert not wanted(8, LENGTH - 1, 4, 2)
        assert not caplog.records
        assert not wanted(8, 1024, 4, 2)
        with sharding.on_mesh(ONE):
            assert not wanted(8, 1000, 4, 2)
            assert not wanted(8, 1024, 4, 2, dropped=True)
        with sharding.on_mesh(make_mesh(2, tensor=4)):
            assert not wanted(8, 1024, 4, 2)
        with sharding.on_mesh(make_mesh(8)):
            assert not wanted(4, 1024, 4, 2)
    reasons = [record.getMessage().partition("since ")[2] for record in caplog.records]
    assert reasons == [
        "nothing says how rows lie on the devices (jaxdistill.compile_step with a mesh does)",
        "rows of 1000 over 1 devices are not whole blocks of 128",
        "probabilities are dropped out (train.dropout=0 leaves them)",
        "4 and 2 heads do not divide over 4 devices",
        "4 rows do not divide over 8 devices",
    ]
    with sharding.on_mesh(ONE):
        assert wanted(8, 1024, 4, 2)
