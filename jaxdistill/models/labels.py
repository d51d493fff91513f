"""Agreement on the labels of a model: their number, their names and the order of its outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from jaxdistill.config.spelling import fold
from jaxdistill.data.label_names import is_generic
from jaxdistill.errors import ModelError
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


def count_labels(head: str | None, num_labels: int | None, labels: Sequence[str] | None) -> int:
    """Return the number of labels that `num_labels` and `labels` agree on.

    Raises:
      ModelError: they disagree, a name repeats, or a classification head has neither.
    """
    if labels is not None:
        if len(set(labels)) != len(labels):
            raise ModelError(f"labels: got {list(labels)}, expected names that differ")
        if num_labels not in (None, len(labels)):
            raise ModelError(
                f"num_labels: got {num_labels}, expected the number of labels, {len(labels)}"
            )
        return len(labels)
    if num_labels is None and head == "classification":
        raise ModelError("num_labels: got None, expected a number (or labels) for the new head")
    return num_labels or 1


def agree(
    folder: Path,
    raw: Json,
    labels: Sequence[str] | None,
    num_labels: int | None,
    stored: int | None,
) -> tuple[tuple[str, ...] | None, int, list[int] | None]:
    """Agree on labels asked for and those of a checkpoint.

    Args:
      folder: names the checkpoint in messages.
      raw: the checkpoint's config.
      labels: names asked for, in the order the logits shall have.
      num_labels: number asked for.
      stored: outputs of the checkpoint's head; None where a new head is drawn.

    Returns:
      Names or None, their number, and which stored output each logit is (None: as they are).

    Raises:
      ModelError: the names, their number or the config's table do not go together.
    """
    if labels is not None:
        num_labels = count_labels("classification", num_labels, labels)
    own = table_of_names(folder, raw, stored)
    if stored is None:
        if num_labels is None:
            num_labels = len(own) if own is not None else raw.get("num_labels")
        count = count_labels("classification", num_labels, labels)
        return None if labels is None else tuple(labels), count, None
    if num_labels not in (None, stored):
        raise ModelError(
            f"{folder}: got {num_labels} labels, expected the {stored} of the checkpoint's head "
            f"({list(own or ())}); pass fresh_head=True (in a config: teacher.fresh_head=true, or "
            "student.fresh_head=true) to train a new one"
        )
    if own is not None and is_generic(own):
        own = None
    if labels is None or own is None or tuple(labels) == own:
        return own if labels is None else tuple(labels), stored, None
    ours, theirs = [fold(label) for label in labels], [fold(label) for label in own]
    if len(set(ours)) < len(ours):
        ours, theirs = list(labels), list(own)  # Names that differ in their spelling only.
    if set(ours) != set(theirs):
        raise ModelError(
            f"{folder}: got labels {list(labels)}, expected those of the checkpoint, {list(own)}; "
            "rename them or pass fresh_head=True (in a config: teacher.fresh_head=true, or "
            "student.fresh_head=true) to train a new head"
        )
    if ours == theirs:
        return tuple(labels), stored, None
    log.warning("%s: outputs reordered from %s to %s", folder, list(own), list(labels))
    return tuple(labels), stored, [theirs.index(label) for label in ours]


def table_of_names(folder: Path, raw: Json, stored: int | None) -> tuple[str, ...] | None:
    """Return the names in a config, in the order of the outputs."""
    table = raw.get("id2label")
    if table is None:
        return None
    count = stored or (len(table) if isinstance(table, dict) else 1)
    if not isinstance(table, dict) or set(table) != {str(i) for i in range(count)}:
        raise ModelError(
            f"{folder / 'config.json'}: id2label: got {table!r}, expected a name for each of "
            f"0 to {count - 1}"
        )
    return tuple(str(table[str(i)]) for i in range(count))
