"""Llama, Qwen2 and Qwen3 against transformers on PyTorch."""

import json

import numpy as np
import pytest
from models import decoders, parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model
from jaxdistill.models.shrink.layers import student_from_teacher

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_transformers(case, tmp_path):
    family, fields = CASES[case]
    theirs = parity.reference(family, "lm", tmp_path, **fields)
    model = load_model(tmp_path)
    assert model.initialized == ()
    assert ("head" in model.params) != fields.get("tie_word_embeddings", False)
    for side in ("left", "right"):
        decoders.check_outputs(model, theirs, decoders.padded(side), 1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_bare_models_equal_those_of_transformers(family, tmp_path):
    theirs = parity.reference(family, None, tmp_path)
    model = load_model(tmp_path, head=None)
    decoders.check_outputs(model, theirs, decoders.padded("right"), 1e-4)


def test_gradients_equal_those_of_transformers(tmp_path):
    theirs = parity.reference("qwen3", "lm", tmp_path)
    parity.check_gradients(load_model(tmp_path), theirs, decoders.padded("left"), 1e-3)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("case", ["llama-llama3", "llama-tied", "qwen2", "qwen3"])
def test_round_trip(case, tmp_path):
    family, fields = CASES[case]
    parity.reference(family, "lm", tmp_path / "a", **fields)
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", "lm", decoders.whole())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_packed_and_padded_rows_equal_separate_rows(family):
    positions = (True, False) if family == "qwen3" else (False,)
    model = build_model(parity.spec(family, initializer_range=0.2))
    decoders.check_packed(model, positions=positions)


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth():
    few, many = (
        decoders.gradient_text(build_model(parity.spec("qwen2", num_hidden_layers=depth)))
        for depth in (4, 32)
    )
    assert len(many) < 1.3 * len(few)


@pytest.mark.parametrize("scaling", [None, {**LLAMA3, "rope_theta": None}])
def test_older_configs_mean_the_same(scaling, tmp_path):
    parameters = scaling or {"rope_type": "default"}
    newer = {"rope_parameters": {**parameters, "rope_theta": 500.0}}
    theirs = parity.reference("llama", "lm", tmp_path, **newer)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    if scaling is not None:
        old = {"type" if k == "rope_type" else k: v for k, v in scaling.items() if v is not None}
        config["rope_scaling"] = old
    path.write_text(json.dumps(config | {"rope_theta": 500.0}))
    model = load_model(tmp_path)
    decoders.check_outputs(model, theirs, decoders.padded("right"), 1e-4)


def test_attention_in_half_precision_stays_near():
    exact, half = (
        build_model(parity.spec("llama", initializer_range=0.2), dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    batch = decoders.padded("right")
    expected = np.asarray(parity.run(exact, batch).logits)
    # With taps the attention is computed by hand, without them by jax.
    for taps in ((), ("layers.0.attention",)):
        got = parity.run(half, batch, taps).logits
        assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_a_student_keeps_the_windows_of_its_layers():
    teacher = build_model(parity.spec("qwen2"))
    student = student_from_teacher(teacher, [0, 2])
    assert student.config.windows == (None, 4)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("llama", {"num_key_value_heads": 3}, "got 3 for 4 attention heads"),
        ("llama", {"head_dim": 7}, "got 7, expected an even number"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "got 'yarn'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "factor: got None"),
        ("llama", {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "expected one base"),
        ("qwen2", {"layer_types": ["full_attention"]}, "got 1 entries"),
        ("qwen3", {"layer_types": ["full"] * 3}, "got 'full'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 0}, "at least 1"),
    ],
)
def test_faulty_configs_are_named(family, fields, message):
    with pytest.raises(ModelError, match=message):
        build_model(parity.spec(family, **fields))
