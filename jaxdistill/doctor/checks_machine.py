"""Checks of the machine: devices to deal batches to, memory to train in."""

from __future__ import annotations

import math

import jax

from jaxdistill.config.schema import TrainConfig
from jaxdistill.data.inputs.shapes import batch_shapes, sizes_of
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.errors import ConfigError
from jaxdistill.evaluation.lm_scores import last_logits
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.registry import Model
from jaxdistill.parallel.host_memory import available_memory
from jaxdistill.parallel.mesh import check_heads, check_length, mesh_sizes, shown
from jaxdistill.types import Tree

_SLOTS = {"sgd": 0, "lion": 1, "lars": 1, "rmsprop": 1, "adagrad": 1, "adafactor": 1}
"""Copies of the parameters that an optimizer keeps; two for the others."""


def devices(examined: Examined) -> Check:
    """Check that batches can be dealt to microbatches and devices."""
    config = examined.config
    try:
        sizes = mesh_sizes(config.parallel.sizes, jax.device_count())
        for who, model in (("teacher", examined.teacher), ("student", examined.student)):
            check_heads(who, None if model is None else model.config, sizes["tensor"])
        if examined.dataset.train.inputs.full_rows:
            check_length(examined.dataset.train.inputs.places, sizes["sequence"])
    except ConfigError as error:
        yield Finding("fatal", "devices", str(error))
        return
    count, over = math.prod(sizes.values()), sizes["data"] * sizes["fsdp"]
    healthy = True
    for name, train in (("finetune", config.finetune), ("train", config.train)):
        parts = over * (1 if train is None else train.accumulate)
        if train is not None and train.batch_size % parts:
            healthy = False
            near = max(parts, round(train.batch_size / parts) * parts)
            yield Finding(
                "fatal",
                "devices",
                f"{name}.batch_size is {train.batch_size}, which {over} devices x "
                f"{train.accumulate} microbatches do not divide; set {name}.batch_size={near}",
            )
    if healthy:
        kind = jax.devices()[0].device_kind
        laid_out = f" ({shown(sizes)})" if over < count or sizes["fsdp"] > 1 else ""
        yield Finding(
            "ok", "devices", f"{count} x {kind}{laid_out}; batches of {config.train.batch_size}"
        )


def memory(examined: Examined) -> Check:
    """Estimate what the student's training needs against what a device has.

    Parameters, gradients and optimizer state are counted; activations are those that the backward
    pass keeps before compilation, which removes some of them.
    """
    if examined.student is None:
        return
    available, what = available_memory()
    train = examined.config.train
    copies = 2 + _SLOTS.get(train.optimizer, 2) + (train.ema is not None)
    sizes = mesh_sizes(examined.config.parallel.sizes, jax.device_count())
    fixed = copies * _bytes(examined.student.params)
    fixed += 0 if examined.teacher is None else _bytes(examined.teacher.params)
    fixed //= sizes["fsdp"] * sizes["tensor"]
    activations = activation_bytes(examined, examined.student, train)
    # Virtual devices of a host share its memory, so every one of them counts.
    sharing = math.prod(sizes.values()) if jax.default_backend() == "cpu" else 1
    fixed, activations = sharing * fixed, sharing * activations
    message = (
        f"about {_gigabytes(fixed + activations)} for the student's training ({_gigabytes(fixed)} "
        f"parameters, gradients and optimizer, {_gigabytes(activations)} activations); "
        f"{_gigabytes(available)} {what}"
    )
    if fixed > available:
        fix = "take a smaller model, more parallel.fsdp, or train.optimizer=sgd or lion"
        yield Finding("fatal", "memory", f"{message}; {fix}")
    elif fixed + activations > available:
        fix = (
            f"if it runs out, set train.accumulate={2 * train.accumulate}, train.remat=true or "
            "train.dtype=bfloat16"
        )
        yield Finding("warning", "memory", f"{message}; {fix}")
    else:
        yield Finding("ok", "memory", message)


def activation_bytes(examined: Examined, model: Model, train: TrainConfig) -> int:
    """Return the bytes that the backward pass of one microbatch on one device keeps."""
    sizes = mesh_sizes(examined.config.parallel.sizes, jax.device_count())
    rows = max(1, train.batch_size // train.accumulate // (sizes["data"] * sizes["fsdp"]))
    modality, inputs = modality_named(examined.dataset.modality), examined.dataset.train.inputs
    batch = batch_shapes(modality, rows, sizes_of(modality, inputs))

    def residuals(params: Tree, batch: Tree) -> Tree:
        def forward(params: Tree) -> Tree:
            rng, state = jax.random.key(0), model.model_state
            return last_logits(model.apply(params, batch, rng=rng, train=True, model_state=state))

        return jax.vjp(forward, params)[1]

    kept = jax.eval_shape(residuals, model.params, batch)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    # What the backward pass keeps includes the parameters themselves, which are counted elsewhere.
    return max(0, total - _bytes(model.params))


def _bytes(params: Tree) -> int:
    return sum(4 * leaf.size for leaf in jax.tree.leaves(params))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
