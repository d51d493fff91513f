"""What a declared method says reaches the step, and what it cannot mean is refused."""

from importlib.metadata import EntryPoint
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.config import plugins
from jaxdistill.config.base import ScheduleConfig, Section
from jaxdistill.config.load import check
from jaxdistill.engine.mean import Mean
from jaxdistill.errors import ConfigError
from jaxdistill.methods import registry
from jaxdistill.methods.feature import LayersOptions
from jaxdistill.methods.method import Method
from jaxdistill.models.outputs import Outputs
from jaxdistill.setup.objective import distillation_objective

TOTAL = 10


class Scaled(LayersOptions):
    factor: float = 1.0


class Heated(Section):
    heat: float | ScheduleConfig = 1.0
    layer: int = 0


class Weighed(Section):
    weight: float = 1.0


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})


def value(term: dict[str, Any], step: int, **features: Any) -> float:
    """Return the value of the only term of a config at a step, of both sides' features."""
    models = {"teacher": {"model": {"family": "cnn"}}, "student": {"model": {"family": "mlp"}}}
    config = check({"data": {"source": "digits"}, **models, "objective": {"own": term}})
    objective = distillation_objective(config, TOTAL, set())
    assert objective.student_taps == tuple(features)
    sides = [Outputs(features={k: jnp.asarray(v[i]) for k, v in features.items()}) for i in (0, 1)]
    batch = {"weight": jnp.ones(2)}
    means = objective.means(*sides, batch, step=jnp.int32(step), projections={})
    return float(means["own"].value())


def test_options_of_a_loss_on_layers_reach_it():
    def scaled(student, teacher, *, factor):
        return factor * jnp.sum((student - teacher) ** 2, -1)

    registry.register_method(Method("scaled", "hidden", scaled, Scaled))
    states = {"layers.0.hidden": (np.zeros((2, 3)), np.ones((2, 3)))}
    term = {"loss": "scaled", "layers": {0: 0}}
    assert value(term, 0, **states) == 3.0
    assert value({**term, "factor": 5}, 0, **states) == 15.0


def test_options_of_a_loss_on_outputs_move_with_the_step():
    def heated(student, teacher, batch, *, maps, step, heat, layer):
        assert maps is None
        return Mean.of(heat * student.features[f"layers.{layer}.hidden"][:, 0], batch["weight"])

    def taps(heat, layer):
        return [f"layers.{layer}.hidden"], []

    registry.register_method(Method("heated", "outputs", heated, Heated, taps=taps))
    states = {"layers.1.hidden": (np.ones((2, 3)), np.ones((2, 3)))}
    term = {"loss": "heated", "layer": 1, "heat": {"start": 4, "end": 2, "over": 0.5}}
    assert [value(term, step, **states) for step in (0, 2, 5, 10)] == pytest.approx([4, 3.2, 2, 2])
    assert value({**term, "heat": 7}, 3, **states) == 7.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reads": "feature"}, "reads: got 'feature', expected one of"),
        ({"options": Weighed}, "options: got 'weight', which every term has"),
        ({"reads": "attention"}, "options: got no 'layers'"),
        ({"maps": lambda *_: None}, "maps: has no effect where reads is 'logits'"),
        ({"reads": "labels", "taps": lambda: ((), ())}, "taps: has no effect where reads is 'lab"),
        ({"reads": "outputs", "fused": True}, "fused: has no effect where reads is 'outputs'"),
        ({"reads": "outputs", "cached": {"topk": max}}, "cached: has no effect where reads is 'o"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ConfigError, match=f"method 'own': {message}"):
        Method(**{"name": "own", "reads": "logits", "formula": max, **fields})


@pytest.mark.parametrize("target", ["no_such_module:register", "tests_of_plugins_fail:no"])
def test_a_plugin_that_cannot_be_imported_is_named(target, monkeypatch):
    point = EntryPoint("hints", target, "jaxdistill.plugins")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    plugins.load_plugins.cache_clear()
    try:
        with pytest.raises(ConfigError, match=rf"plugin 'hints' \({target}\): got ModuleNotFound"):
            check({"data": {"source": "digits"}, "objective": {"a": {"loss": "forward_kl"}}})
    finally:
        monkeypatch.undo()
        plugins.load_plugins.cache_clear()
