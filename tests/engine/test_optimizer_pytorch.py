"""A configuration's updates and rates, step by step, against those of PyTorch and transformers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.config.base import ScheduleConfig
from jaxdistill.config.schema import TrainConfig
from jaxdistill.engine.frozen import merge_parameters, split_parameters
from jaxdistill.engine.optimizer import learning_rate_schedule, make_optimizer, value_schedule

torch = pytest.importorskip("torch")

STEPS, TOTAL = 8, 12
NAMES = {
    "embeddings/table": (5, 2),
    "embeddings/norm/scale": (2,),
    "head/kernel": (2, 3),
    "head/bias": (3,),
}


def drawn(seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, size, shape).astype(np.float32) for name, shape in NAMES.items()}


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = jnp.asarray(leaf)
    return {"student": tree, "projections": {}}


# Small and large by turns, so that clipping now acts and now does not.
GRADIENTS = [drawn(100 + step, 3.0 if step % 2 else 0.05) for step in range(STEPS)]


def ours(config: TrainConfig) -> list[dict[str, np.ndarray]]:
    """Return the parameters after each step."""
    whole = nested(drawn(0))
    optimizer = make_optimizer(config, whole, TOTAL)
    params, frozen = split_parameters(whole, config.freeze)
    state, found = optimizer.init(params), []
    for gradients in GRADIENTS:
        trained, _ = split_parameters(nested(gradients), config.freeze)
        updates, state = optimizer.update(trained, state, params)
        params = optax.apply_updates(params, updates)
        leaves = jax.tree_util.tree_flatten_with_path(merge_parameters(params, frozen)["student"])[
            0
        ]
        found.append(
            {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        )
    return found


def theirs(
    make: Callable[..., Any],
    *,
    decay: float,
    decayed: tuple[str, ...] = ("embeddings/table", "head/kernel"),
    clip: float | None = 1.0,
    rate: Callable[[int], float] = lambda step: 1.0,
) -> list[dict[str, np.ndarray]]:
    """Return the same of a PyTorch optimizer."""
    params = {name: torch.nn.Parameter(torch.tensor(leaf)) for name, leaf in drawn(0).items()}
    groups = [
        {"params": [leaf], "weight_decay": decay if name in decayed else 0.0}
        for name, leaf in params.items()
    ]
    optimizer = make(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    found = []
    for gradients in GRADIENTS:
        for name, leaf in params.items():
            leaf.grad = torch.tensor(gradients[name])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
        schedule.step()
        found.append({name: leaf.detach().numpy().copy() for name, leaf in params.items()})
    return found


def assert_same(config: TrainConfig, expected: list[dict[str, np.ndarray]]) -> None:
    for step, (found, wanted) in enumerate(zip(ours(config), expected, strict=True)):
        for name in NAMES:
            np.testing.assert_allclose(
                found[name], wanted[name], rtol=2e-6, atol=2e-6, err_msg=f"{name} at step {step}"
            )


PLAIN = {"learning_rate": 0.05, "warmup": 0, "schedule": "constant"}


@pytest.mark.mostly_slow
@pytest.mark.parametrize("clip", [None, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_sgd_clips_then_decays(clip, decay):
    config = TrainConfig(
        **PLAIN,
        optimizer="sgd",
        optimizer_options={"momentum": 0.9, "nesterov": True},
        clip_norm=clip,
        weight_decay=decay,
    )
    sgd = lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)  # noqa: E731
    assert_same(config, theirs(sgd, decay=decay, clip=clip))


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("options", "betas", "eps"),
    [
        ({}, (0.9, 0.999), 1e-8),
        ({"b1": 0.8, "b2": 0.95, "eps": 1e-3}, (0.8, 0.95), 1e-3),
    ],
)
def test_adamw_takes_its_options_and_decays_what_is_named(options, betas, eps):
    adamw = lambda groups: torch.optim.AdamW(groups, lr=0.05, betas=betas, eps=eps)  # noqa: E731
    config = TrainConfig(**PLAIN, optimizer_options=options, weight_decay=0.3)
    assert_same(config, theirs(adamw, decay=0.3))
    every = config.model_copy(update={"no_decay": ()})
    assert_same(every, theirs(adamw, decay=0.3, decayed=tuple(NAMES)))
    others = config.model_copy(update={"no_decay": ("embeddings",)})
    assert_same(others, theirs(adamw, decay=0.3, decayed=("head/kernel", "head/bias")))


def test_frozen_parameters_have_no_part_in_the_norm_that_is_clipped():
    config = TrainConfig(
        **PLAIN, optimizer="sgd", clip_norm=0.5, weight_decay=0.0, freeze=("embeddings",)
    )
    kept = {name: leaf for name, leaf in drawn(0).items() if name.startswith("embeddings")}
    found = ours(config)
    values = {name: leaf for name, leaf in drawn(0).items() if name not in kept}
    for step, gradients in enumerate(GRADIENTS):
        norm = np.sqrt(sum((gradients[name] ** 2).sum() for name in values))
        for name in values:
            values[name] = values[name] - 0.05 * min(1.0, 0.5 / norm) * gradients[name]
            np.testing.assert_allclose(found[step][name], values[name], rtol=1e-5, atol=1e-6)
        for name, leaf in kept.items():
            np.testing.assert_array_equal(found[step][name], leaf)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.25, 3), (1, 1), (5, 5), (100, TOTAL)])
def test_rates_are_those_of_transformers(name, warmup, steps):
    """Those of its next step: there the first update has the rate 0 and moves nothing."""
    optimization = pytest.importorskip("transformers.optimization")
    make = {
        "linear": optimization.get_linear_schedule_with_warmup,
        "cosine": optimization.get_cosine_schedule_with_warmup,
        "constant": optimization.get_constant_schedule_with_warmup,
    }[name]
    arguments = {} if name == "constant" else {"num_training_steps": TOTAL}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    schedule = make(optimizer, num_warmup_steps=steps, **arguments)
    expected = []
    for _ in range(TOTAL):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    config = TrainConfig(learning_rate=0.7, warmup=warmup, schedule=name)
    rate = learning_rate_schedule(config, TOTAL)
    found = [float(rate(step)) for step in range(TOTAL)]
    rise = [0.7 * (step + 1) / steps for step in range(steps)]
    np.testing.assert_allclose(found, rise + expected[steps:], rtol=1e-6, atol=1e-7)


def test_the_optimizer_follows_the_schedule():
    config = TrainConfig(
        learning_rate=0.5, warmup=2, schedule="cosine", optimizer="sgd", clip_norm=None,
        weight_decay=0,
    )  # fmt: skip
    sgd = lambda groups: torch.optim.SGD(groups, lr=0.5)  # noqa: E731

    def rate(step: int) -> float:
        return (step + 1) / 2 if step < 2 else 0.5 * (1 + np.cos(np.pi * (step - 2) / 10))

    assert_same(config, theirs(sgd, decay=0.0, clip=None, rate=rate))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("over", "steps"), [(1, 40), (1.0, 40), (0.5, 20), (0.01, 1), (2, 2), (40, 40), (80, 80)]
)
def test_a_schedule_over_1_lasts_the_whole_run(shape, over, steps):
    schedule = value_schedule(ScheduleConfig(shape=shape, start=4.0, end=1.0, over=over), 40)
    assert callable(schedule)
    done = np.minimum(np.arange(90) / steps, 1)
    share = done if shape == "linear" else (1 - np.cos(np.pi * done)) / 2
    found = [float(schedule(step)) for step in range(90)]
    np.testing.assert_allclose(found, 4 - 3 * share, rtol=1e-5)


def test_a_constant_schedule_stays_at_its_start():
    schedule = value_schedule(ScheduleConfig(shape="constant", start=4.0, end=4.0), 40)
    assert callable(schedule)
    assert [float(schedule(step)) for step in (0, 20, 60)] == [4.0] * 3
