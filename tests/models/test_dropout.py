"""Which masks a training pass draws: where transformers does, and never one of them twice."""

import sys
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity
from models.families.test_t5 import SPEC as T5
from models.families.test_t5 import pair

from jaxdistill.models.family import Model
from jaxdistill.models.layers import basic as layers
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import build_model

IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
VIT = {name: size for name, size in parity.BERT.items() if "vocab" not in name}
VIT.pop("max_position_embeddings")
BERT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.3}
GPT2 = {"embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3}
DISTILBERT = {"dropout": 0.1, "attention_dropout": 0.2, "seq_classif_dropout": 0.3}
MASKED = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
# Family, head, and a rate of its own for every place that has a name.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "classification", BERT),
    "bert, no rate of the classifier": ("bert", "classification", MASKED),
    "bert, masked tokens": ("bert", "masked_lm", MASKED),
    "roberta": ("roberta", "classification", BERT),
    "distilbert": ("distilbert", "classification", DISTILBERT),
    "mobilebert": ("mobilebert", "classification", BERT),
    "vit": ("vit", "classification", MASKED),
    "gpt2": ("gpt2", "lm", GPT2),
    "llama": ("llama", "lm", {"attention_dropout": 0.2}),
    "qwen3": ("qwen3", "lm", {"attention_dropout": 0.2}),
    "gemma2": ("gemma2", "lm", {"attention_dropout": 0.2}),
    "gemma3_text": ("gemma3_text", "lm", {"attention_dropout": 0.2}),
    "t5": ("t5", "lm", {"dropout_rate": 0.1}),
    "t5, gated": ("t5", "lm", {"dropout_rate": 0.1, "feed_forward_proj": "gated-gelu"}),
}


def fields_of(family: str, rates: dict[str, Any]) -> dict[str, Any]:
    sizes = {"vit": {**VIT, **IMAGE}, "t5": {**T5, "num_decoder_layers": 2}}
    return {**(sizes.get(family) or parity.FIELDS[family]), **rates}


def batch_of(family: str) -> dict[str, np.ndarray]:
    if family == "vit":
        images = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
        return {"images": images.astype(np.float32)}
    return pair("right") if family == "t5" else parity.text_batch(1)


def built(name: str) -> tuple[Model, dict[str, np.ndarray]]:
    family, head, rates = CASES[name]
    spec = {"family": family, **fields_of(family, rates)}
    labels = {"num_labels": 3} if head == "classification" else {}
    return build_model(spec, head=head, **labels), batch_of(family)


class Masks:
    """The masks that a pass draws: of each its entries and rate, and the key."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: Counter[tuple[int, float]] = Counter()
        self.keys: list[bytes] = []
        original = layers.dropout

        def recorded(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
            if rng is not None and rate > 0:

                def note(key: np.ndarray) -> None:
                    self.places[x.size, rate] += 1
                    self.keys.append(np.asarray(key).tobytes())

                jax.debug.callback(note, jax.random.key_data(rng))
            return original(x, rate, rng)

        for name, module in list(sys.modules.items()):
            inside = name.startswith("jaxdistill.models.")
            if inside and getattr(module, "dropout", None) is original:
                monkeypatch.setattr(module, "dropout", recorded)

    def of(self, model: Model, params: Any, batch: dict[str, Any], taps: Any = ()) -> Any:
        """Run a training pass; return the places and the keys."""
        self.places.clear()
        self.keys.clear()
        given = {name: jnp.asarray(value) for name, value in batch.items()}

        def train(params: Any) -> Any:
            outputs = model.apply(params, given, rng=jax.random.key(0), train=True, taps=taps)
            return outputs.logits

        jax.block_until_ready(parity.compiled(train)(params))
        jax.effects_barrier()
        return Counter(self.places), list(self.keys)


def expected_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, float]]:
    """Return the entries and rates of the masks that transformers draws."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, head, rates = CASES[name]
    labels = {"num_labels": 3} if head == "classification" else {}
    config = transformers.AutoConfig.for_model(family, **fields_of(family, rates), **labels)
    kind = {
        "classification": transformers.AutoModelForSequenceClassification,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "lm": transformers.AutoModelForCausalLM,
    }[head]
    if family == "t5":
        kind = transformers.AutoModelForSeq2SeqLM
    if family == "vit":
        kind = transformers.AutoModelForImageClassification
    model = kind.from_config(config, attn_implementation="eager").train()
    places: Counter[tuple[int, float]] = Counter()
    original = torch.nn.functional.dropout

    def recorded(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if training and p > 0:
            places[x.numel(), p] += 1
        return original(x, p, training, inplace)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "dropout", recorded)
        batch = batch_of(family)
        if family == "vit":
            model(pixel_values=torch.tensor(batch["images"].transpose(0, 3, 1, 2)))
        else:
            model(**{key: torch.tensor(value.astype(np.int64)) for key, value in batch.items()})
    return places


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", CASES)
def test_masks_are_drawn_where_transformers_draws_them(name, monkeypatch):
    wanted = expected_of(name, monkeypatch)
    model, batch = built(name)
    # The tap lets the last layer compute all tokens, not only those that are classified.
    depth = getattr(model.config, "num_hidden_layers", 2)
    taps = () if CASES[name][0] == "t5" else (f"layers.{depth - 1}.hidden",)
    places, keys = Masks(monkeypatch).of(model, model.params, batch, taps)
    assert places == wanted
    assert len(set(keys)) == len(keys) == wanted.total()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ["bert", "mobilebert", "gpt2", "t5"])
@pytest.mark.parametrize("apart", [False, True])
def test_no_mask_is_drawn_twice_however_layers_lie(name, apart, monkeypatch):
    """A last layer of its own, which computes only what is classified, has masks of its own."""
    model, batch = built(name)
    params = stacking.unstack(model.params, model.axes) if apart else model.params
    places, keys = Masks(monkeypatch).of(model, params, batch)
    assert len(set(keys)) == len(keys) == places.total() > 6
