"""Teacher logits over the training examples, computed once and dealt out with every batch.

A frozen teacher says the same of an example in every epoch and for every seed. Where the objective
reads its logits only, and examples are not altered on the way, one pass replaces all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxdistill.config import ATTENTION_LOSSES, HIDDEN_LOSSES, Config
from jaxdistill.data.batches import Batch, BatchSource
from jaxdistill.data.plan import Draw
from jaxdistill.models.outputs import Outputs

FIELD = "teacher_logits"


def obstacle(config: Config) -> str | None:
    """Return why the teacher has to run live in this configuration, or None."""
    for name, term in config.terms.items():
        if term.loss in HIDDEN_LOSSES + ATTENTION_LOSSES:
            return f"objective.{name} reads the teacher's layers"
    if config.data.shift:
        return "data.shift alters the examples"
    return None


def with_targets(source: BatchSource, logits: np.ndarray) -> BatchSource:
    """Add `teacher_logits` `[B, C]` to every batch.

    Args:
      source: batches of the examples that `logits` are of.
      logits: float32 `[N, C]`, in the order of the split.
    """

    def assemble(epoch: int, position: int, draw: Draw) -> Batch:
        batch = source.assemble(epoch, position, draw)
        return {**batch, FIELD: logits[draw.index]}

    return dataclasses.replace(source, assemble=assemble)


def apply(params: Any, batch: Any, **_: Any) -> Outputs:
    """Be the teacher that has already spoken: read its logits from the batch."""
    return Outputs(logits=batch[FIELD])
