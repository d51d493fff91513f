"""The record that every kind of teacher is given to a step as."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxdistill.models.outputs import Outputs
from jaxdistill.teachers.cache.codecs import Codec
from jaxdistill.types import Tree


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model that runs in every step, or one whose outputs the host adds to each batch.

    Attributes:
      apply: `(params, batch, *, rng, train, taps) -> Outputs`; of stored outputs, it reads the
        fields of the batch that begin with `targets.PREFIX`.
      params: parameters of a live model, the head of stored hidden states, or an empty mapping; or
        their shapes.
      axes: logical axes of the parameters, or None where they have no names.
      codec: how stored outputs are kept; None of a live model, whose outputs are as they are.
      config: sizes of a live model, which have to divide over a mesh, or None.
    """

    apply: Callable[..., Outputs]
    params: Tree
    axes: Tree = None
    codec: Codec | None = None
    config: Any = None
