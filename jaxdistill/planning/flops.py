"""Operations of a step counted from the models' shapes alone: what is useful, and what is run.

Products of parameters: 2 operations per weight and token forward, 4 backward (Kaplan et al. 2020,
section 2.1). Attention: `4 T H d` per token and layer forward where all scores are computed, and
twice that backward; useful are those that a token may see, about half of a decoder's. A layer that
is recomputed runs forward once more. Half of the backward products are gradients of weights, which
frozen ones do without; the other half pass the gradient down, to the lowest trained layer.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.engine.frozen import frozen_masks
from jaxdistill.engine.optimizer import FREEZE
from jaxdistill.models.layers import flash
from jaxdistill.models.layers.decoder_layer import shape_of
from jaxdistill.models.registry import Model
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import SEQUENCE
from jaxdistill.types import Tree


@dataclasses.dataclass(frozen=True)
class Forward:
    """Operations of a model's forward pass over a batch.

    Attributes:
      layers: products with the weights of its layers.
      attention: all scores and their mix of values.
      head: the last projection.
      seen: share of the scores that a token may see.
      learned_layers, learned_head: the part of `layers` and `head` whose weights are trained.
      passed_layers, passed_attention: the part of `layers` and `attention` that the gradient
        passes on its way down.
      below: whether it passes the head.
    """

    layers: float
    attention: float
    head: float
    seen: float
    learned_layers: float
    learned_head: float
    passed_layers: float
    passed_attention: float
    below: bool

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
    model: Model,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    *,
    read: Collection[int] = (),
    freeze: Sequence[str] = (),
    scanned: bool = False,
) -> Forward | None:
    """Count a forward pass of a transformer over text; None for what reads no tokens.

    Args:
      model: the transformer; its parameters may be shapes.
      batch: with `input_ids` `[B, T]`.
      read: layers whose states or attention a loss reads.
      freeze: patterns of what is not trained.
      scanned: whether a loop runs all layers alike, also backward where one is trained.
    """
    ids = batch.get("input_ids")
    if ids is None or model.axes is None or "layers" not in model.params:
        return None
    rows, length = ids.shape
    tokens = rows * length
    options, sizes, shape = model.options, model.sizes, shape_of(model.config)
    heads, width, depth = sizes.heads or 0, sizes.head_width or 0, sizes.layers or 0
    language = options is not None and options.head in ("lm", "masked_lm")
    pools = options is not None and options.head == "classification" and options.pooling != "mean"
    # Of a last layer that nothing else reads, a classifier computes the pooled tokens only, from
    # all keys and values.
    pools = pools and depth > 0 and depth - 1 not in read
    queries = np.full(depth, tokens)  # [L]
    queries[depth - pools :] = rows
    layers, learned_layers = np.zeros(depth), np.zeros(depth)  # [L]
    inputs = np.zeros(depth)  # of them, products with a layer's input
    weights, learned = {"head": 0.0, "rest": 0.0}, {"head": 0.0, "rest": 0.0}
    trained = _trained(model.params, freeze)
    reached = np.zeros(depth, bool)
    below = False
    for (path, leaf), ours in zip(jax.tree.leaves_with_path(model.params), trained, strict=True):
        names = [str(getattr(part, "key", "")) for part in path]
        size = math.prod(leaf.shape) if "kernel" in names else 0
        if names[0] == "layers":
            ours = np.broadcast_to(ours, depth).copy()
            if scanned:  # A loop computes the same for all of its layers.
                loop = slice(depth - pools)
                ours[loop] = ours[loop].any()
            whole = bool({"key", "value"} & set(names))
            products = size / depth * (tokens if whole else queries)
            layers += products
            learned_layers += products * ours
            inputs += products if {"query", "key", "value"} & set(names) else 0
            reached |= ours
        else:
            place = "head" if names[0] == "head" else "rest"
            weights[place] += size
            learned[place] += size * bool(ours)
            below |= "embeddings" in names and bool(ours)
    passed = np.logical_or.accumulate(reached) | below
    passed_layers = (passed * layers).sum()
    if not below and not scanned and shape is None and passed.any():
        # Into the lowest layer nothing has to pass; a decoder's norm before it still asks for it.
        passed_layers -= inputs[passed.argmax()]
    heads_of = [
        part["head"] * (tokens if language else rows) + part["rest"] * rows
        for part in (weights, learned)
    ]
    if language and (shape is None or shape.tied):
        table = (sizes.vocabulary or 0) * (sizes.width or 0) * tokens
        heads_of[0] += table
        heads_of[1] += table if _table_is_trained(model.params, trained) else 0.0
    scores = 4.0 * length * heads * width * queries
    return Forward(
        layers=2.0 * layers.sum(),
        attention=float(scores.sum()),
        head=2.0 * heads_of[0],
        seen=0.5 * (1 + 1 / length) if shape is not None else 1.0,
        learned_layers=2.0 * learned_layers.sum(),
        learned_head=2.0 * heads_of[1],
        passed_layers=2.0 * passed_layers,
        passed_attention=float((passed * scores).sum()),
        below=bool(passed.any()) or below,
    )


def _trained(params: Tree, freeze: Sequence[str]) -> list[np.ndarray]:
    """Return for every parameter whether it is trained: bool `[]`, or `[L]` where layers differ."""
    if not freeze:
        return [np.array(True) for _ in jax.tree.leaves(params)]
    masks = frozen_masks({"student": params}, freeze, setting=FREEZE)
    return [~mask for mask in jax.tree.leaves(masks)]


def _table_is_trained(params: Tree, trained: Sequence[np.ndarray]) -> bool:
    """Return whether a head that is the table of embeddings is trained with it."""
    return any(
        bool(ours.any())
        for (path, _), ours in zip(jax.tree.leaves_with_path(params), trained, strict=True)
        if {"word", "table"} <= {str(getattr(part, "key", "")) for part in path}
    )


def step_flops(student: Forward, *, computed: Scores | None = None, remat: bool = False) -> float:
    """Count forward and backward pass of what learns.

    Args:
      student: forward pass of the model that learns.
      computed: share of its scores that is computed; None: the useful ones.
      remat: whether its layers run forward twice.
    """
    scores = computed or Scores(student.seen, 2 * student.seen)
    forward = student.layers + scores.forward * student.attention
    again = student.passed_layers + scores.forward * student.passed_attention
    backward = student.passed_layers + scores.backward * student.passed_attention
    layers = forward + remat * again + backward + student.learned_layers
    return layers + student.head * (1 + student.below) + student.learned_head


def step_operations(
    config: Config,
    train: TrainConfig,
    student: Model,
    teacher: Model | None,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    *,
    apart: bool,
) -> tuple[dict[str, float], float | None]:
    """Return the useful operations of a step, of each model, and all that are run.

    Args:
      config: settings of the run.
      train: settings of the stage.
      student: model that learns; its parameters may be shapes.
      teacher: model that runs live, or None.
      batch: batch of the step over all devices.
      mesh: mesh that the step is laid over.
      apart: whether layers run one by one, so that those below the lowest trained one have no
        backward pass.
    """
    maps = (
        [term.options.get("layers", {}) for term in config.terms.values()]
        if teacher is not None
        else []
    )
    count = functools.partial(
        forward_flops,
        student,
        batch,
        read={layer for layers in maps for layer in layers},
        freeze=train.freeze,
    )
    own, all_run = count(), count(scanned=not apart)
    if own is None or all_run is None or config.on_policy is not None:
        return {}, None
    useful = {"student": step_flops(own)}
    computed = functools.partial(_scores_computed, batch=batch, train=train, mesh=mesh)
    run = step_flops(all_run, computed=computed(student), remat=train.remat)
    if teacher is None:
        return useful, run
    read = {layer for layers in maps for layer in layers.values()}
    theirs = forward_flops(teacher, batch, read=read)
    if theirs is None:
        return {}, None
    return {"teacher": theirs.total()} | useful, run + theirs.total(computed(teacher).forward)


def _scores_computed(
    model: Model, batch: Mapping[str, jax.ShapeDtypeStruct], train: TrainConfig, mesh: Mesh
) -> Scores:
    """Return the share of all scores that a model's attention computes."""
    shape, options = shape_of(model.config), model.options
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
