"""Gemma 2 and Gemma 3 against transformers on PyTorch."""

import json

import numpy as np
import pytest
from models import decoders, parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model

CASES = {
    "gemma2": ("gemma2", {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 2.0}),
    "gemma2-uncapped": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": ("gemma3_text", {}),
    "gemma3-linear": (
        "gemma3_text",
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "layer_types": None}
        | {"sliding_window_pattern": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_transformers(case, tmp_path):
    family, fields = CASES[case]
    theirs = parity.reference(family, "lm", tmp_path, **fields)
    model = load_model(tmp_path)
    assert model.initialized == ()
    for side in ("left", "right"):
        decoders.check_outputs(model, theirs, decoders.padded(side), 1e-4)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_bare_models_equal_those_of_transformers(family, tmp_path):
    theirs = parity.reference(family, None, tmp_path)
    model = load_model(tmp_path, head=None)
    decoders.check_outputs(model, theirs, decoders.padded("right"), 1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_gradients_equal_those_of_transformers(case, tmp_path):
    family, fields = CASES[case]
    theirs = parity.reference(family, "lm", tmp_path, **fields)
    parity.check_gradients(load_model(tmp_path), theirs, decoders.padded("left"), 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, tmp_path):
    family, fields = CASES[case]
    parity.reference(family, "lm", tmp_path / "a", **fields)
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", "lm", decoders.whole())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_packed_and_padded_rows_equal_separate_rows(family):
    decoders.check_packed(build_model(parity.spec(family, initializer_range=0.2)))


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth():
    few, many = (
        decoders.gradient_text(
            build_model(
                parity.spec("gemma3_text", num_hidden_layers=depth, layer_types=None), remat=True
            )
        )
        for depth in (4, 32)
    )
    assert len(many) < 1.3 * len(few)


def test_the_sixth_layer_sees_everything_where_the_config_does_not_say():
    config = build_model(parity.spec("gemma3_text", layer_types=None, num_hidden_layers=7)).config
    assert config.windows == (4, 4, 4, 4, 4, None, 4)


def test_older_configs_mean_the_same(tmp_path):
    theirs = parity.reference("gemma3_text", "lm", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    bases = config.pop("rope_parameters")
    config["rope_theta"] = bases["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = bases["sliding_attention"]["rope_theta"]
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (5000.0, 100.0)
    path.write_text(json.dumps(config))
    decoders.check_outputs(load_model(tmp_path), theirs, decoders.padded("right"), 1e-4)


def test_a_softcap_holds_with_and_without_logits():
    fields = {"final_logit_softcapping": 0.5, "initializer_range": 0.5}
    outputs = parity.run(build_model(parity.spec("gemma2", **fields)), decoders.whole())
    assert np.abs(outputs.logits).max() <= 0.5
    assert outputs.head().softcap == 0.5


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("gemma2", {"final_logit_softcapping": -1.0}, "got -1.0, expected a number above 0"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "expected null"),
    ],
)
def test_faulty_configs_are_named(family, fields, message):
    with pytest.raises(ModelError, match=message):
        build_model(parity.spec(family, **fields))
