"""Families of others: registered once, imported on first use, built and loaded as our own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models import registered
from jaxdistill.models.families.llama import LLAMA, LlamaConfig, rotary_family
from jaxdistill.models.registered import families, family_named, register_family
from jaxdistill.models.registry import build_model, load_model, save_model

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@dataclasses.dataclass(frozen=True)
class CappedConfig(LlamaConfig):
    logit_cap: float = 0.5

    @property
    def shape(self):
        return dataclasses.replace(super().shape, head_softcap=self.logit_cap)


CAPPED = rotary_family("capped", "Nobody 2026, Nothing", CappedConfig, "Capped")


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})


@pytest.mark.slow
def test_a_family_is_built_saved_and_loaded(tmp_path):
    register_family("capped", CAPPED)
    model = build_model({"family": "capped", "initializer_range": 1.0, **SIZES})
    batch = {"input_ids": np.arange(12).reshape(2, 6) % 40}
    outputs = model.apply(model.params, batch)
    assert jnp.abs(outputs.logits).max() <= 0.5
    head = outputs.head()
    raw = outputs.hidden @ head.weights
    np.testing.assert_allclose(outputs.logits, 0.5 * np.tanh(raw / 0.5), rtol=1e-4, atol=1e-5)
    save_model(tmp_path / "out", model)
    again = load_model(tmp_path / "out")
    assert (again.family, again.config.logit_cap) == ("capped", 0.5)
    np.testing.assert_array_equal(again.apply(again.params, batch).logits, outputs.logits)


def test_a_family_is_known_by_its_name_and_its_model_types():
    register_family("capped", dataclasses.replace(CAPPED, model_types=("capped-2",)))
    assert family_named("capped").name == family_named("capped-2").name == "capped"
    assert list(families())[-1] == "capped"
    with pytest.raises(ModelError, match=r"got 'caped', expected one of .*Did you mean 'capped'"):
        family_named("caped")


def test_a_family_is_imported_when_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "own_family.py").write_text(
        "from jaxdistill.models.families.llama import LlamaConfig, rotary_family\n"
        "OWN = rotary_family('own', 'x', LlamaConfig, 'Own')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register_family("own", "own_family:OWN", model_types=("own_2",))
    assert family_named("own_2").architectures["lm"] == "OwnForCausalLM"


@pytest.mark.parametrize("name", ["llama", "roberta", "capped", "taken"])
def test_a_name_is_given_once(name):
    register_family("capped", CAPPED)
    register_family("capped", CAPPED)
    register_family("other", "nowhere:OTHER", model_types=("taken",))
    with pytest.raises(ConfigError, match=f"got the name {name!r}, which another family has"):
        register_family(name, "somewhere:ELSE")
    with pytest.raises(ConfigError, match=f"got the name {name!r}, which another family has"):
        register_family("new", "somewhere:ELSE", model_types=(name,))
    assert "new" not in families.__globals__["_REGISTERED"]


def test_a_record_has_the_name_that_it_is_registered_under():
    with pytest.raises(ConfigError, match="got the name 'mine' for the family 'llama'"):
        register_family("mine", LLAMA)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:FAMILY", "cannot be imported .*No module named"),
        ("jaxdistill.models.families.llama:NONE", "cannot be imported .*has no attribute 'NONE'"),
        ("jaxdistill.models.families.llama:QWEN2", "expected a Family of that name"),
        ("jaxdistill.models.families.llama:FULL", "got 'full_attention' from .*expected a Family"),
    ],
)
def test_a_record_that_is_not_there_is_named(target, message):
    register_family("mine", target)
    with pytest.raises(ModelError, match=f"model family 'mine': .*{message}"):
        family_named("mine")
