"""DistilBERT against transformers on PyTorch."""

import jax
import numpy as np
import pytest
from models import parity

from jaxdistill.models.registry import build_model, load_model


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm", None])
def test_outputs_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("distilbert", head, tmp_path)
    parity.check_outputs(load_model(tmp_path, head=head), theirs, parity.text_batch(0), 1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_gradients_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("distilbert", head, tmp_path)
    parity.check_gradients(load_model(tmp_path, head=head), theirs, parity.text_batch(0), 1e-3)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_round_trip(head, tmp_path):
    parity.reference("distilbert", head, tmp_path / "a")
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", head, parity.text_batch(0))


@pytest.mark.slow
def test_fields_have_their_common_names_too():
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    model = build_model({"family": "distilbert", **fields}, num_labels=2)
    assert (model.config.dim, model.config.n_layers, model.config.n_heads) == (32, 2, 4)
    assert model.config.hidden_size == 32


@pytest.mark.slow
def test_the_head_drops_at_its_own_rate_what_its_dense_layer_gives():
    off = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.5}
    model = build_model(parity.spec("distilbert", **off, initializer_range=0.2), num_labels=2)
    batch = parity.text_batch(0)
    got = np.asarray(parity.run(model, batch, rng=jax.random.key(0), train=True).hidden)
    whole = np.asarray(parity.run(model, batch).hidden)
    kept = got != 0
    assert 0.2 < kept[whole > 0].mean() < 0.8
    np.testing.assert_allclose(got[kept], 2 * whole[kept], rtol=1e-5)
