"""The optax chain of a configuration: schedule, clipping, decay, layer rates."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdistill.config.base import DECAYING, Optimizer, ScheduleConfig
from jaxdistill.config.schema import TrainConfig
from jaxdistill.engine.frozen import (
    frozen_masks,
    is_layer,
    layer_numbers,
    path_name,
    split_parameters,
)
from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.types import Tree

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    name: getattr(optax, name) for name in typing.get_args(Optimizer)
}

FREEZE = "train.freeze"


def learning_rate_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Return the learning rate by step: linear warm-up, then the configured decay to zero."""
    warmup = config.warmup * total_steps if config.warmup < 1 else config.warmup
    warmup_steps = min(round(warmup), total_steps)
    rest = max(total_steps - warmup_steps, 1)
    peak = config.learning_rate
    after = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    if warmup_steps == 0:
        return after
    # The first update already moves: step 0 has the rate peak / warmup_steps.
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [warmup_steps])


def value_schedule(value: float | ScheduleConfig, total_steps: int) -> float | optax.Schedule:
    """Return a number as it is, and a configured schedule as a function of the step."""
    if not isinstance(value, ScheduleConfig):
        return value
    steps = value.over * total_steps if value.over <= 1 else value.over
    steps = max(round(steps), 1)
    if value.shape == "constant":
        return optax.constant_schedule(value.start)
    if value.shape == "linear":
        return optax.linear_schedule(value.start, value.end, steps)
    cosine = optax.cosine_decay_schedule(1.0, steps)
    return lambda step: value.end + (value.start - value.end) * cosine(step)


def make_optimizer(
    config: TrainConfig, params: Tree, total_steps: int
) -> optax.GradientTransformation:
    """Build the optimizer for the trained part of `params`, see `split_parameters`.

    Order: global-norm clipping, the optimizer with decoupled weight decay on every parameter whose
    path holds none of `config.no_decay`, the layer-wise factors.

    Args:
      config: settings of the stage; `config.freeze` names what is not trained.
      params: all parameters, `{"student": …, "projections": …}`, or their shapes.
      total_steps: updates of the stage.

    Raises:
      ConfigError: an unknown option, a `freeze` pattern that matches nothing or leaves nothing to
        train, or a `layer_decay` without layers.
    """
    if config.freeze:
        frozen_masks(params, config.freeze, setting=FREEZE)
    build = OPTIMIZERS[config.optimizer]
    accepted = inspect.signature(build).parameters
    ours = {"learning_rate", "weight_decay", "mask", "weight_decay_mask"}
    for option in config.optimizer_options:
        if option in ours:
            raise ConfigError(
                f"train.optimizer_options.{option}: got a value beside train.learning_rate, "
                "train.weight_decay and train.no_decay, which say it; give it there"
            )
        if option not in accepted:
            raise ConfigError(
                f"train.optimizer_options.{option}: unknown for {config.optimizer!r}, "
                f"expected one of {sorted(set(accepted) - ours)}."
                f"{did_you_mean(option, accepted)}"
            )
    options = dict(config.optimizer_options)
    mask = next((name for name in ("mask", "weight_decay_mask") if name in accepted), None)
    if config.optimizer in DECAYING and mask is not None:
        options |= {"weight_decay": config.weight_decay, mask: _decay_mask(config.no_decay)}
    chain = []
    if config.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    if config.optimizer in DECAYING and mask is None and config.weight_decay:
        chain.append(optax.add_decayed_weights(config.weight_decay, _decay_mask(config.no_decay)))
    try:
        chain.append(build(learning_rate_schedule(config, total_steps), **options))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"train.optimizer_options: got {config.optimizer_options}, which "
            f"{config.optimizer!r} refuses: {error}"
        ) from None
    if config.layer_decay is not None and config.layer_decay != 1.0:
        factors = layer_factors(params, config.layer_decay)
        chain.append(_scale_by_factors(split_parameters(factors, config.freeze)[0]))
    return optax.chain(*chain)


def layer_factors(params: Tree, decay: float) -> Tree:
    """Return learning rate factors shaped to broadcast over each leaf.

    With `L` layers everything above them (pooler, final norm, head) has factor 1, layer `i` has
    `decay ** (L + 1 - i)` and everything below them (embeddings) `decay ** (L + 2)`, as in ELECTRA
    (arXiv 2003.10555): its code leaves one step free between the last layer and the head.
    """
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    depths = [layer_numbers(path, leaf).max() + 1 for path, leaf in paths if is_layer(path)]
    if not depths:
        raise ConfigError(
            f"train.layer_decay: got {decay}, but the model has no layers that it could "
            "distinguish; drop it"
        )
    count = max(depths)

    def factor(path, leaf):
        if is_layer(path):
            factors = decay ** (count + 1 - layer_numbers(path, leaf))
            ones = leaf.ndim - factors.ndim
            return jnp.asarray(factors.reshape(*factors.shape, *[1] * ones), jnp.float32)
        below = "embedding" in path_name(path)
        return jnp.full((1,) * leaf.ndim, decay ** (count + 2) if below else 1.0, jnp.float32)

    return jax.tree_util.tree_map_with_path(factor, params)


def _decay_mask(no_decay: tuple[str, ...]) -> Callable[[Tree], Tree]:
    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not any(word in path_name(path) for word in no_decay), params
        )

    return mask


def _scale_by_factors(factors: Tree) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return jax.tree.map(jnp.multiply, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
