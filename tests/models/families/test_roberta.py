"""RoBERTa and XLM-RoBERTa against transformers on PyTorch."""

import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model


@pytest.mark.parametrize("head", ["classification", "masked_lm", None])
def test_outputs_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("roberta", head, tmp_path)
    model = load_model(tmp_path, head=head)
    parity.check_outputs(model, theirs, parity.text_batch(1), 1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_gradients_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("roberta", head, tmp_path)
    parity.check_gradients(load_model(tmp_path, head=head), theirs, parity.text_batch(1), 1e-3)


@pytest.mark.parametrize(
    ("family", "head"),
    [("roberta", "classification"), ("roberta", "masked_lm"), ("xlm-roberta", "classification")],
)
def test_round_trip(family, head, tmp_path):
    parity.reference(family, head, tmp_path / "a")
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", head, parity.text_batch(1))


def test_positions_start_after_the_padding_index(tmp_path):
    parity.reference("roberta", "classification", tmp_path)
    model = load_model(tmp_path)
    batch = parity.text_batch(1)
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), (3, 9))
    explicit = parity.run(model, batch | {"position_ids": positions})
    np.testing.assert_allclose(explicit.logits, parity.run(model, batch).logits, atol=1e-6)


def test_longest_text_leaves_room_for_the_offset():
    model = build_model(parity.spec("roberta"), num_labels=2)
    fits = {"input_ids": np.full((1, 22), 7, np.int32)}
    assert np.isfinite(parity.run(model, fits).logits).all()
    with pytest.raises(ModelError, match="23 tokens, expected at most 22"):
        parity.run(model, {"input_ids": np.full((1, 23), 7, np.int32)})
