"""Frozen models in less memory: exact in the compute type, near in int8, fetched from the host."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill.models.frozen import Int8, called_from_host, keep_frozen
from jaxdistill.models.layers.stacking import unstack
from jaxdistill.models.registry import build_model

SIZES = {
    "family": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
BATCH = {"input_ids": np.arange(24, dtype=np.int32).reshape(2, 12) % 96}


def hidden_of(model, apply=None):
    return np.asarray(jax.jit(apply or model.apply)(model.params, BATCH).hidden, np.float32)


def bytes_of(model):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))


def test_the_compute_type_costs_no_precision():
    model = build_model(SIZES, dtype="bfloat16")
    frozen = keep_frozen(model)
    assert bytes_of(frozen) < 0.52 * bytes_of(model)
    assert frozen.params["norm"]["scale"].dtype == np.float32
    np.testing.assert_array_equal(hidden_of(frozen), hidden_of(model))


def test_a_model_in_float32_stays_as_it_is():
    model = build_model(SIZES)
    assert keep_frozen(model).params["layers"]["up"]["kernel"].dtype == np.float32


@pytest.mark.mostly_slow
@pytest.mark.parametrize("apart", [False, True])
def test_int8_rounds_each_output_to_255_levels(apart):
    model = build_model(SIZES)
    exact = hidden_of(model)
    if apart:
        model = dataclasses.replace(model, params=unstack(model.params, model.axes))
    frozen = keep_frozen(model, "int8")
    kernel = model.params["layers"]["up"]["kernel"][0]
    kept = frozen.params["layers"]["up"]["kernel"][0]
    assert isinstance(kept, Int8)
    levels = np.abs(np.asarray(kernel, np.float64)).max(0) / 127
    expected = np.round(np.asarray(kernel, np.float64) / levels) * levels
    np.testing.assert_allclose(kept.astype(np.float32), expected, atol=1e-6)
    assert bytes_of(frozen) < 0.5 * bytes_of(model)
    off = np.linalg.norm(hidden_of(frozen) - exact) / np.linalg.norm(exact)
    assert 1e-4 < off < 1e-2


def test_layers_are_fetched_from_the_host():
    model = build_model(SIZES)
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    far = dataclasses.replace(model, params=jax.device_put(model.params, host))
    np.testing.assert_array_equal(hidden_of(far, called_from_host(far.apply)), hidden_of(model))
