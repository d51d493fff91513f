"""Operations of a step counted from the models' shapes alone: what is useful, and what is run.

Products of parameters: 2 operations per weight and token forward, 4 backward (Kaplan et al. 2020,
section 2.1). Attention: `4 T H d` per token and layer forward, since the whole square of scores is
computed, and twice that backward. A layer that is recomputed runs forward once more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax

from jaxdistill.models.registry import Model


@dataclasses.dataclass(frozen=True)
class Forward:
    """Operations of a model's forward pass over a batch.

    Attributes:
      layers: products with the weights of its layers.
      attention: scores and their mix of values.
      head: the last projection.
    """

    layers: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.head


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


def step_flops(
    student: Forward, teacher: Forward | None, *, remat: bool = False, head_again: bool = False
) -> float:
    """Count a training step: the student forward and backward, the teacher forward.

    Args:
      student: that learns.
      teacher: that runs live, or None.
      remat: whether the student's layers run forward twice.
      head_again: whether its head's products are computed twice.
    """
    again = (student.layers + student.attention) * remat + student.head * head_again
    return 3 * student.total + again + (0.0 if teacher is None else teacher.total)
