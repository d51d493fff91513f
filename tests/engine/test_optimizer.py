"""The optimizer does what its configuration says, against PyTorch and hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import parity

from jaxdistill.config.base import ScheduleConfig
from jaxdistill.config.schema import TrainConfig
from jaxdistill.engine.frozen import merge_parameters, split_parameters
from jaxdistill.engine.optimizer import (
    layer_factors,
    learning_rate_schedule,
    make_optimizer,
    value_schedule,
)
from jaxdistill.errors import ConfigError
from jaxdistill.models.assembly import abstract
from jaxdistill.models.family import Options, config_from
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import family_named

PARAMS = {
    "student": {
        "embeddings": {"table": jnp.full((5, 2), 0.5)},
        "layers": {"dense": {"kernel": jnp.full((3, 2, 2), 0.5), "bias": jnp.full((3, 2), 0.5)}},
        "head": {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.full((2,), 0.5)},
    },
    "projections": {},
}


def updated(config: TrainConfig, gradients, steps=1, total=10):
    optimizer = make_optimizer(config, PARAMS, total)
    params, frozen = split_parameters(PARAMS, config.freeze)
    gradients, _ = split_parameters(gradients, config.freeze)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return merge_parameters(params, frozen)["student"]


@pytest.mark.slow
def test_adamw_equals_pytorch_with_clipping_decay_masks_and_schedule():
    torch = pytest.importorskip("torch")
    config = TrainConfig(learning_rate=0.1, weight_decay=0.1, clip_norm=1.0, warmup=0.2)
    generator = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: generator.normal(size=p.shape).astype(np.float32), PARAMS)
    ours = updated(config, gradients, steps=6)
    names, leaves = zip(
        *[
            (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(PARAMS["student"])[0]
        ],
        strict=True,
    )
    theirs = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in leaves]
    groups = [
        {"params": [p], "weight_decay": 0.0 if "bias" in name else 0.1}
        for name, p in zip(names, theirs, strict=True)
    ]
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    rate = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: (step + 1) / 2 if step < 2 else (10 - step) / 8
    )
    for _ in range(6):
        for p, g in zip(theirs, jax.tree.leaves(gradients["student"]), strict=True):
            p.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adamw.step()
        rate.step()
    for name, ours_leaf, p in zip(names, jax.tree.leaves(ours), theirs, strict=True):
        np.testing.assert_allclose(ours_leaf, p.detach(), rtol=0, atol=1e-5, err_msg=name)


def test_learning_rate_warms_up_and_reaches_zero():
    rate = learning_rate_schedule(TrainConfig(learning_rate=1.0, warmup=0.2), 10)
    values = [float(rate(step)) for step in range(11)]
    np.testing.assert_allclose(values[:4], [0.5, 1.0, 1.0, 0.875], rtol=1e-6)
    assert values[10] == 0.0
    flat = learning_rate_schedule(TrainConfig(learning_rate=2.0, warmup=0, schedule="constant"), 10)
    assert float(flat(0)) == float(flat(9)) == 2.0


def test_value_schedules_by_fraction_and_by_steps():
    half = value_schedule(ScheduleConfig(start=4.0, end=2.0, over=0.5), 100)
    np.testing.assert_allclose([half(0), half(25), half(50), half(99)], [4, 3, 2, 2], rtol=1e-6)
    steps = value_schedule(ScheduleConfig(shape="cosine", start=0.0, end=1.0, over=10), 100)
    np.testing.assert_allclose([steps(0), steps(5), steps(10)], [0, 0.5, 1], atol=1e-6)
    assert value_schedule(0.3, 100) == 0.3


def test_frozen_parameters_stay_and_have_no_state():
    config = TrainConfig(freeze=("embeddings", "layers/dense/bias"))
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    after = updated(config, gradients)
    np.testing.assert_array_equal(after["embeddings"]["table"], 0.5)
    np.testing.assert_array_equal(after["layers"]["dense"]["bias"], 0.5)
    assert (np.asarray(after["layers"]["dense"]["kernel"]) != 0.5).all()
    trained, _ = split_parameters(PARAMS, config.freeze)
    state = make_optimizer(config, PARAMS, 10).init(trained)
    assert not any(getattr(leaf, "shape", ()) == (5, 2) for leaf in jax.tree.leaves(state))


def test_layer_decay_lowers_the_rate_towards_the_embeddings():
    factors = layer_factors(PARAMS, 0.5)["student"]
    np.testing.assert_allclose(
        np.ravel(factors["layers"]["dense"]["kernel"]), [0.0625, 0.125, 0.25], rtol=1e-6
    )
    assert float(factors["embeddings"]["table"].item()) == 0.03125
    assert float(factors["head"]["kernel"].item()) == 1.0
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    plain = {"weight_decay": 0, "clip_norm": None, "warmup": 0}
    config = TrainConfig(optimizer="sgd", learning_rate=0.1, layer_decay=0.5, **plain)
    moved = 0.5 - np.asarray(updated(config, gradients)["layers"]["dense"]["bias"])
    np.testing.assert_allclose(moved[2] / moved[0], 4.0, rtol=1e-4)


# The exponents of `learning_rate * layer_decay ** (n_layers + 2 - depth)` in ELECTRA's
# model/optimization.py, where embeddings have depth 0, layer i has i + 1 and the task's own
# parameters n_layers + 2.
ELECTRA = {
    "bert": {
        "embeddings/word/table": 5, "embeddings/norm/scale": 5, "layers/up/kernel": [4, 3, 2],
        "layers/output_norm/bias": [4, 3, 2], "pooler/kernel": 0, "head/output/bias": 0,
    },
    "gpt2": {
        "embeddings/word/table": 5, "embeddings/position/table": 5,
        "layers/attention/query/kernel": [4, 3, 2], "norm/scale": 0,
    },
    "llama": {
        "embeddings/word/table": 5, "layers/attention/query/kernel": [4, 3, 2], "head/kernel": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("family", ELECTRA)
def test_layer_decay_has_the_exponents_of_electra(family, apart):
    found = family_named(family)
    options = Options(head=found.head_named("default"))
    config = config_from(found, parity.FIELDS[family], {})
    _, shapes, _, axes = abstract(found, config, options)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params = stacking.unstack(params, axes) if apart else params
    factors = flatten(layer_factors({"student": params, "projections": {}}, 0.8)["student"])
    for name, exponents in ELECTRA[family].items():
        got = factors[name]
        got = np.array([np.ravel(one) for one in got]) if apart and name[:6] == "layers" else got
        expected = np.array(exponents) if name[:6] == "layers" else np.array([exponents])
        np.testing.assert_allclose(np.ravel(got), 0.8**expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer_options": {"beta1": 0.9}}, r"optimizer_options.beta1.*b1"),
        ({"freeze": ("encoder",)}, "'encoder' matches no parameter"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(TrainConfig(**changes), PARAMS, 10)
