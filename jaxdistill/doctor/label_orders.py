"""Which order of the labels would make a bad teacher a good one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxdistill.doctor.checks_labels import compare_labels
from jaxdistill.doctor.checks_models import head_labels
from jaxdistill.doctor.findings import Examined, quoted
from jaxdistill.evaluation.metrics import classes


def better_order(examined: Examined, logits: np.ndarray, labels: np.ndarray) -> str | None:
    """Say which order of the labels would make a bad teacher a good one, if there is one."""
    from scipy.optimize import linear_sum_assignment

    count = logits.shape[-1]
    table = np.zeros((count, count), np.int64)  # [predicted, meant]
    np.add.at(table, (classes(logits), labels), 1)
    accuracy = table.trace() / len(labels)
    predicted, meant = linear_sum_assignment(-table)
    best = table[predicted, meant].sum() / len(labels)
    # Noise, too, is a little better in some other order: only a good teacher is worth telling.
    majority = np.bincount(labels).max() / len(labels)
    if best <= accuracy + 0.1 or best <= (1 + majority) / 2:
        return None
    moved = [f"{s} -> {m}" for s, m in zip(predicted, meant, strict=True) if s != m and table[s, m]]
    return (
        f"with its labels in another order it would be {100 * best:.1f} % (its label -> the "
        f"data's: {', '.join(moved[:8])}); {_reordered(examined, meant)}"
    )


def _reordered(examined: Examined, meant: np.ndarray) -> str:
    """Say what to write so that output `s` of the teacher is taken as `meant[s]` of the data."""
    space, names = examined.dataset.space, examined.dataset.labels
    own = head_labels(examined.config, "teacher")
    count = len(meant)
    ids = space is None or space.holds_ids
    configured: Sequence[str] = examined.config.data.labels or ()
    aliases = space is not None and space.outputs is None and not ids and bool(configured)
    if own is not None and aliases and compare_labels(configured, own) == "names":
        return _labels_in_order([configured[int(m)] for m in meant])
    if own is not None and not (
        ids and (space is None or space.source_names in (None, configured))
    ):
        right = {int(s): (names or own)[m] for s, m in enumerate(meant)}
        return f"its config.json names its outputs otherwise: correct id2label to {right}"
    source = None if space is None else space.source_names
    if own is None and names is not None and (source is not None or not ids):
        return _labels_in_order([names[m] for m in meant])
    # Which output each id of the data is to be, by the names that the outputs have.
    outputs = np.arange(count) if space is None or space.outputs is None else space.outputs
    place = np.argsort(meant)
    known = own or tuple(f"LABEL_{index}" for index in range(count))
    return _labels_in_order([known[place[output]] for output in outputs])


def _labels_in_order(names: Sequence[str]) -> str:
    return f"set data.labels=[{', '.join(map(quoted, names))}]"
