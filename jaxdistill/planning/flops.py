"""Operations of a step counted from the models' shapes alone: what is useful, and what is run.

Products of parameters: 2 operations per weight and token forward, 4 backward (Kaplan et al. 2020,
section 2.1). Attention: `4 T H d` per token and layer forward where all scores are computed, and
twice that backward; useful are those that a token may see, about half of a decoder's. A layer that
is recomputed runs forward once more.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.models.layers import flash
from jaxdistill.models.registry import Model
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import SEQUENCE


@dataclasses.dataclass(frozen=True)
class Forward:
    """Operations of a model's forward pass over a batch.

    Attributes:
      layers: products with the weights of its layers.
      attention: all scores and their mix of values.
      head: the last projection.
      seen: share of the scores that a token may see.
    """

    layers: float
    attention: float
    head: float
    seen: float = 1.0

    def total(self, computed: float | None = None) -> float:
        """Return all of them, with that share of the scores; None: those that are useful."""
        share = self.seen if computed is None else computed
        return self.layers + share * self.attention + self.head


@dataclasses.dataclass(frozen=True)
class Scores:
    """How much of `Forward.attention` a pass computes: forward, and backward."""

    forward: float
    backward: float


def forward_flops(
    model: Model, batch: Mapping[str, Any], *, read: Collection[int] = ()
) -> Forward | None:
    """Count a forward pass of a transformer over text; None for what reads no tokens.

    Args:
      model: its parameters may be shapes.
      batch: with `input_ids` `[B, T]`.
      read: layers whose states or attention a loss reads.
    """
    ids = batch.get("input_ids")
    if ids is None or model.axes is None or "layers" not in model.params:
        return None
    rows, length = ids.shape
    tokens = rows * length
    config, options = model.config, model.options
    shape = getattr(config, "shape", None)
    heads, width, depth = _attention(config, shape)
    language = options is not None and options.head in ("lm", "masked_lm")
    pools = options is not None and options.head == "classification" and options.pooling != "mean"
    # Of a last layer that nothing else reads, a classifier computes the pooled tokens only, from
    # all keys and values.
    pools = pools and depth > 0 and depth - 1 not in read
    fewer = (tokens - rows) / depth if pools else 0.0
    weights = {"layers": 0.0, "head": 0, "rest": 0}
    for path, leaf in jax.tree.leaves_with_path(model.params):
        names = [str(getattr(part, "key", "")) for part in path]
        if names[-1:] == ["kernel"] or "kernel" in names:
            place = names[0] if names[0] in ("layers", "head") else "rest"
            whole = place != "layers" or {"key", "value"} & set(names)
            size = math.prod(leaf.shape)
            weights[place] += size if whole else size * (1 - fewer / tokens)
    head = weights["head"] * (tokens if language else rows)
    if language and shape is not None and shape.tied:
        head += shape.vocabulary * shape.width * tokens
    elif language and shape is None:
        head += config.vocab_size * config.hidden_size * tokens
    return Forward(
        2.0 * weights["layers"] * tokens,
        4.0 * length * heads * width * depth * (tokens - fewer),
        2.0 * (head + weights["rest"] * rows),
        0.5 * (1 + 1 / length) if shape is not None else 1.0,
    )


def _attention(config: Any, shape: Any) -> tuple[int, int, int]:
    """Return the number of heads, their width and the number of layers."""
    if shape is not None:
        return shape.heads, shape.head_width, shape.depth
    bert = ("num_attention_heads", "hidden_size", "num_hidden_layers")
    for fields in (bert, ("n_heads", "dim", "n_layers")):
        if all(hasattr(config, name) for name in fields):
            heads, width, depth = (getattr(config, name) for name in fields)
            return heads, width // heads, depth
    return 0, 0, 0


def step_flops(student: Forward, *, computed: Scores | None = None, remat: bool = False) -> float:
    """Count forward and backward pass of what learns.

    Args:
      student: that learns.
      computed: of its scores; None: those that are useful.
      remat: whether its layers run forward twice.
    """
    scores = computed or Scores(student.seen, 2 * student.seen)
    forward = student.layers + scores.forward * student.attention
    backward = 2 * student.layers + scores.backward * student.attention
    return (1 + remat) * forward + backward + 3 * student.head


def step_operations(
    config: Config,
    train: TrainConfig,
    student: Model,
    teacher: Model | None,
    batch: Mapping[str, Any],
    mesh: Mesh,
) -> tuple[dict[str, float], float | None]:
    """Return the useful operations of a step, of each model, and all that are run.

    Args:
      config: the run's.
      train: of what learns.
      student: that learns; its parameters may be shapes.
      teacher: that runs live, or None.
      batch: of the step over all devices.
      mesh: that it is laid over.
    """
    maps = (
        [term.options.get("layers", {}) for term in config.terms.values()]
        if teacher is not None
        else []
    )
    own = forward_flops(student, batch, read={layer for layers in maps for layer in layers})
    if own is None or config.on_policy is not None:
        return {}, None
    useful = {"student": step_flops(own)}
    computed = functools.partial(_scores_computed, batch=batch, train=train, mesh=mesh)
    run = step_flops(own, computed=computed(student), remat=train.remat)
    if teacher is None:
        return useful, run
    read = {layer for layers in maps for layer in layers.values()}
    theirs = forward_flops(teacher, batch, read=read)
    if theirs is None:
        return {}, None
    return {"teacher": theirs.total()} | useful, run + theirs.total(computed(teacher).forward)


def _scores_computed(
    model: Model, batch: Mapping[str, Any], train: TrainConfig, mesh: Mesh
) -> Scores:
    """Return the share of all scores that a model's attention computes."""
    shape, options = getattr(model.config, "shape", None), model.options
    if shape is None or options is None:
        return Scores(1.0, 2.0)
    rows, length = batch["input_ids"].shape
    with sharding.on_mesh(mesh):
        in_blocks = flash.wanted(
            rows // train.accumulate,
            length,
            shape.heads,
            shape.key_heads,
            choice=options.attention,
            dropped=False,
        )
    side = flash.block_of(length // mesh.shape[SEQUENCE])
    if not in_blocks or side is None:
        return Scores(1.0, 2.0)
    share = flash.visited(length, side)
    return Scores(share, flash.BACKWARD * share)
