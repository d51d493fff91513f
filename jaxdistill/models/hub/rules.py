"""Rules between our parameter paths and the tensor names of Hugging Face checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from jaxdistill.types import Tree

_PLACEHOLDER = re.compile(r"\{\w+\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of our arrays and the tensor, or the numbered tensors, it is stored as.

    Attributes:
      ours: path in the nested dict, as `layers/attention/query/kernel`.
      theirs: full tensor name; each placeholder, as in `bert.encoder.layer.{layer}.output.weight`,
        counts along one leading axis of our array, in order.
      permute: axes of one tensor in the order of ours, `(1, 0)` for a kernel, `(2, 3, 1, 0)` for a
        convolution; None where they agree.
      collection: `params`, or `model_state` for batch statistics.
      group: rules of one group may all be absent from a checkpoint (a head that was never
        trained); their arrays are then freshly initialised. None: the tensor is required.
      part: `(i, n)` where the tensor joins n of our arrays along its last axis, and ours is the
        i-th (GPT-2's query, key and value); None where it is ours alone.
    """

    ours: str
    theirs: str
    permute: tuple[int, ...] | None = None
    collection: Literal["params", "model_state"] = "params"
    group: str | None = None
    part: tuple[int, int] | None = None

    @property
    def stacked(self) -> int:
        """Number of leading axes that are spread over numbered tensors."""
        return len(_PLACEHOLDER.findall(self.theirs))

    def names(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yield index and tensor name of each part of our array of that shape."""
        for index in itertools.product(*(range(size) for size in shape[: self.stacked])):
            parts = iter(index)
            yield index, _PLACEHOLDER.sub(lambda _, parts=parts: str(next(parts)), self.theirs)

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one tensor, from the shape of our array."""
        own = shape[self.stacked :]
        if self.permute is not None:
            own = tuple(own[self.permute.index(axis)] for axis in range(len(own)))
        return own if self.part is None else (*own[:-1], own[-1] * self.part[1])

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Lay out one tensor of theirs as ours."""
        if self.part is not None:
            index, count = self.part
            tensor = np.split(tensor, count, axis=-1)[index]
        return tensor if self.permute is None else tensor.transpose(self.permute)

    def to_theirs(self, part: np.ndarray) -> np.ndarray:
        """Lay out one part of our array as theirs, contiguous; `part` still has to be joined."""
        back = part if self.permute is None else part.transpose(np.argsort(self.permute))
        return np.ascontiguousarray(back)


def linear(ours: str, theirs: str, *, bias: bool = True, group: str | None = None) -> list[Rule]:
    """Rules of a dense layer: `kernel` and `bias` against `weight` (transposed) and `bias`."""
    rules = [Rule(f"{ours}/kernel", f"{theirs}.weight", (1, 0), group=group)]
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias", group=group)] if bias else rules


def norm(ours: str, theirs: str, *, bias: bool = True, group: str | None = None) -> list[Rule]:
    """Rules of a normalization: `scale` and `bias` against `weight` and `bias`."""
    rules = [Rule(f"{ours}/scale", f"{theirs}.weight", group=group)]
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias", group=group)] if bias else rules


def embedding(ours: str, theirs: str, *, group: str | None = None) -> list[Rule]:
    """The rule of a table: `table` against `weight`."""
    return [Rule(f"{ours}/table", f"{theirs}.weight", group=group)]


def flatten(tree: Mapping[Any, Tree] | None, prefix: str = "") -> dict[str, Tree]:
    """List the leaves of a nested dict by path, as `layers/up/kernel`; None is an empty dict."""
    flat: dict[str, Tree] = {}
    for key, value in (tree or {}).items():
        path = f"{prefix}/{key}" if prefix else str(key)
        branch = value is None or isinstance(value, Mapping)
        flat |= flatten(value, path) if branch else {path: value}
    return flat


def unflatten(like: Mapping[Any, Tree], leaves: Mapping[str, Tree], prefix: str = "") -> dict:
    """Build a nested dict with the keys of `like` (integer keys stay so) and leaves by path."""
    tree = {}
    for key, value in like.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        tree[key] = unflatten(value, leaves, path) if isinstance(value, Mapping) else leaves[path]
    return tree
