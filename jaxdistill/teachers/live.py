"""A teacher that runs in every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdistill.models.frozen import Storage, called_from_host, keep_frozen
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.registry import Model
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.teachers.teacher import Teacher
from jaxdistill.types import Tree


def live(model: Model, *, storage: Storage, on_host: bool) -> Teacher:
    """Let a model teach.

    Args:
      model: the teacher; its parameters may be shapes.
      storage: how its kernels are kept.
      on_host: whether its parameters lie in the host's memory, from where each layer is fetched.
    """
    sizes = model.config
    with in_host_memory():
        model = keep_frozen(model, storage)
    apply, params = with_state(model)
    if on_host:
        apply = called_from_host(apply)
    axes = model.axes
    if model.model_state is not None and axes is not None:
        unnamed = jax.tree.map(lambda leaf: (None,) * len(leaf.shape), model.model_state)
        axes = {"params": axes, "model_state": unnamed}
    return Teacher(apply, params, axes, config=sizes)


def with_state(model: Model) -> tuple[Callable[..., Outputs], Tree]:
    """Return an apply function and parameters that carry a frozen model's state along."""
    if model.model_state is None:
        return model.apply, model.params

    def apply(params: Tree, batch: Mapping[str, jax.Array], **options: Any) -> Outputs:
        return model.apply(params["params"], batch, model_state=params["model_state"], **options)

    return apply, {"params": model.params, "model_state": model.model_state}
