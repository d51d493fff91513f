"""MobileBERT against transformers on PyTorch, in each of its shapes."""

import pytest
from models import parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model

SHAPES = {
    "plain": {},
    "layer_norm": {
        "normalization_type": "layer_norm",
        "layer_norm_eps": 1e-3,
        "num_feedforward_networks": 1,
    },
    "narrow_attention": {"use_bottleneck_attention": True, "classifier_activation": False},
    "no_bottleneck": {"use_bottleneck": False, "embedding_size": 32, "trigram_input": False},
}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_equal_those_of_transformers(shape, tmp_path):
    theirs = parity.reference("mobilebert", "classification", tmp_path, **SHAPES[shape])
    parity.check_outputs(load_model(tmp_path), theirs, parity.text_batch(0, types=2), 1e-4)


@pytest.mark.parametrize("head", ["masked_lm", None])
def test_other_heads_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("mobilebert", head, tmp_path)
    parity.check_outputs(load_model(tmp_path, head=head), theirs, parity.text_batch(0), 1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_gradients_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("mobilebert", head, tmp_path)
    parity.check_gradients(load_model(tmp_path, head=head), theirs, parity.text_batch(0), 1e-3)


@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_round_trip(head, tmp_path):
    parity.reference("mobilebert", head, tmp_path / "a")
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", head, parity.text_batch(0))


def test_shapes_that_cannot_be_built_are_refused():
    for fields, message in (
        ({"normalization_type": "batch_norm"}, "normalization_type: got 'batch_norm'"),
        ({"key_query_shared_bottleneck": False}, "set one of them"),
    ):
        with pytest.raises(ModelError, match=message):
            build_model(parity.spec("mobilebert", **fields), num_labels=2)
