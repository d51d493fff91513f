"""A family whose config calls everything otherwise is checked and planned as any other."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models import registered
from jaxdistill.models.abstract import abstract_model
from jaxdistill.models.families.bert import BERT, BertConfig
from jaxdistill.models.families.small import CNN, CnnConfig
from jaxdistill.models.layer_maps import layer_count, tap_shapes
from jaxdistill.models.registered import register_family
from jaxdistill.models.sizes import Sizes
from jaxdistill.parallel.mesh import check_heads
from jaxdistill.planning.batches import batch_of
from jaxdistill.planning.flops import forward_flops
from jaxdistill.setup.facts import Facts


@dataclasses.dataclass(frozen=True)
class WordsConfig:
    """A small BERT."""

    words: int = 40
    breadth: int = 12
    floors: int = 2
    eyes: int = 3
    longest: int = 16
    extra: dict = dataclasses.field(default_factory=dict)

    @property
    def bert(self):
        return BertConfig(
            vocab_size=self.words,
            hidden_size=self.breadth,
            num_hidden_layers=self.floors,
            num_attention_heads=self.eyes,
            intermediate_size=24,
            max_position_embeddings=self.longest,
        )

    @property
    def sizes(self):
        return Sizes(
            layers=self.floors,
            width=self.breadth,
            heads=self.eyes,
            vocabulary=self.words,
            positions=self.longest,
        )


@dataclasses.dataclass(frozen=True)
class PixelsConfig:
    """A small CNN."""

    side: int = 12
    colours: int = 2
    extra: dict = dataclasses.field(default_factory=dict)

    @property
    def sizes(self):
        return Sizes(image=(self.side, self.side), channels=self.colours)


WORDS = dataclasses.replace(
    BERT,
    name="words",
    model_types=(),
    config=WordsConfig,
    build=lambda config, options, rngs: BERT.build(config.bert, options, rngs),
    rules=lambda config, options: BERT.rules(config.bert, options),
)
PIXELS = dataclasses.replace(
    CNN,
    name="pixels",
    model_types=(),
    config=PixelsConfig,
    build=lambda config, options, rngs: CNN.build(
        CnnConfig(image_size=config.side, num_channels=config.colours), options, rngs
    ),
)
TEXTS = {"source": "files", "train": "nowhere.csv", "text": "text", "label": "label"}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    register_family("words", WORDS)
    register_family("pixels", PIXELS)


def config_of(family, data):
    model = {"model": {"family": family}}
    return check({"data": data, "teacher": model, "student": model, "finetune": None})


def test_its_heads_are_checked():
    model = abstract_model({"family": "words"})
    check_heads("student", model.config, 3)
    with pytest.raises(ConfigError, match=r"the student has 3 attention heads; expected one of"):
        check_heads("student", model.config, 2)


@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_its_operations_are_those_of_the_same_model_under_the_usual_names(head):
    ours = abstract_model({"family": "words"}, head=head)
    bert = dataclasses.replace(WordsConfig().bert, extra={})
    fields = {k: v for k, v in vars(bert).items() if k != "extra"}
    theirs = abstract_model({"family": "bert", **fields}, head=head)
    batch = {"input_ids": jax.ShapeDtypeStruct((4, 8), jnp.int32)}
    found = forward_flops(ours, batch)
    assert found is not None
    assert found.attention > 0
    assert found == forward_flops(theirs, batch)


def test_its_rows_are_planned_as_long_as_it_has_positions():
    config = config_of("words", {**TEXTS, "max_length": 64})
    model = abstract_model({"family": "words"})
    batch = batch_of(config, config.train, model, Facts())
    assert batch["input_ids"].shape == (config.train.batch_size, 16)


def test_its_images_are_planned_and_its_layers_found():
    config = config_of("pixels", {"train": "nowhere", "format": "images"})
    model = abstract_model({"family": "pixels"})
    batch = batch_of(config, config.train, model, Facts())
    assert batch["images"].shape == (config.train.batch_size, 12, 12, 2)
    words = abstract_model({"family": "words"})
    assert layer_count(words) == 2
    assert tap_shapes(words, [1], "hidden") == [(1, 4, 12)]


def test_a_config_says_its_sizes():
    @dataclasses.dataclass(frozen=True)
    class Silent:
        extra: dict = dataclasses.field(default_factory=dict)

    with pytest.raises(ModelError, match="mine: got the config Silent without sizes, expected"):
        dataclasses.replace(CNN, name="mine", config=Silent)
