"""Checks of the teacher: does it know more than the student could guess?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np

from jaxdistill.inspect.checks_labels import compare_labels, folder_labels
from jaxdistill.inspect.findings import Check, Finding, Setup, quoted
from jaxdistill.inspect.metrics import compute_metrics, decide
from jaxdistill.models.registry import Model, family_named


def teacher_head(setup: Setup) -> Check:
    """Check that a teacher which is taken as it is has been trained for the task."""
    teacher = setup.teacher
    if teacher is None or setup.config.finetune is not None:
        return
    head = "head" if teacher.family is None else family_named(teacher.family).output
    new = [path for path in teacher.initialized if path.startswith(head)]
    if new:
        yield Finding(
            "fatal",
            "teacher head",
            f"finetune is null, but the teacher's head ({new[0]}) is freshly initialised: it has "
            "nothing to teach; drop `finetune: null`, or give a teacher fine-tuned on the task",
        )
    elif teacher.initialized:
        yield Finding(
            "warning",
            "teacher head",
            f"finetune is null, but {len(teacher.initialized)} of the teacher's parameters are "
            f"freshly initialised ({teacher.initialized[0]}, …); check that the folder is whole",
        )
    else:
        yield Finding("ok", "teacher head", "every parameter of the teacher comes from its folder")


def teacher_skill(setup: Setup) -> Check:
    """Check the teacher against chance and against always saying the same."""
    logits, labels = setup.teacher_logits, setup.teacher_labels
    if logits is None or labels is None:
        return
    task = setup.config.task
    remedy = (
        "give a teacher that was fine-tuned on this task, or let finetune train it"
        if setup.config.finetune is None
        else "train it longer or with another finetune.learning_rate"
    )
    if task == "regression":
        found = compute_metrics(task, logits, labels, ["spearman"])["spearman"]
        told = f"the rank correlation of its predictions with the labels is {found:.3f}"
        if found <= 0:
            yield Finding("fatal", "teacher skill", f"{told}; it has nothing to teach: {remedy}")
        else:
            yield Finding("ok", "teacher skill", told)
        return
    name = "accuracy" if task == "classification" else "exact_match"
    share = compute_metrics(task, logits, labels, [name])[name]
    majority = _majority(labels)
    chance = 1 / logits.shape[-1] if task == "classification" else 0.5 ** logits.shape[-1]
    told = (
        f"the teacher's {name} is {100 * share:.1f} %; chance is {100 * chance:.1f} %, always "
        f"saying the commonest answer {100 * majority:.1f} %"
    )
    order = _better_order(setup, logits, labels, share) if task == "classification" else None
    if order is not None:
        yield Finding("fatal", "teacher skill", f"{told}; {order}")
    elif share <= majority and not _ranked_otherwise(setup, logits, labels):
        yield Finding("fatal", "teacher skill", f"{told}; it has nothing to teach: {remedy}")
    elif share <= majority + 2 * math.sqrt(majority * (1 - majority) / len(labels)):
        yield Finding("warning", "teacher skill", f"{told}, which is hardly less: {remedy}")
    else:
        yield Finding("ok", "teacher skill", told)


def sizes(setup: Setup) -> Check:
    """Check that the student is the smaller one."""
    if setup.teacher is None or setup.student is None:
        return
    teacher, student = (_count(model) for model in (setup.teacher, setup.student))
    told = f"teacher {teacher:,} parameters, student {student:,}"
    if student >= teacher:
        yield Finding(
            "warning", "size", f"{told}: the student is not smaller; are the two exchanged?"
        )
    else:
        yield Finding("ok", "size", f"{told} ({100 * student / teacher:.0f} %)")


def _majority(labels: np.ndarray) -> float:
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return float(counts.max() / counts.sum())


def _ranked_otherwise(setup: Setup, logits: np.ndarray, labels: np.ndarray) -> bool:
    """Say whether a metric for rare classes sees skill where the accuracy does not."""
    if setup.config.task != "classification" or setup.config.ranking_metric == "accuracy":
        return False
    return compute_metrics("classification", logits, labels, ["matthews"])["matthews"] > 0.1


def _better_order(
    setup: Setup, logits: np.ndarray, labels: np.ndarray, accuracy: float
) -> str | None:
    """Say which order of the labels would make a bad teacher a good one, if there is one."""
    from scipy.optimize import linear_sum_assignment

    classes = logits.shape[-1]
    table = np.zeros((classes, classes), np.int64)  # [said, meant]
    np.add.at(table, (decide("classification", logits), labels), 1)
    said, meant = linear_sum_assignment(-table)
    best = table[said, meant].sum() / len(labels)
    # Noise, too, is a little better in some other order: only a good teacher is worth telling.
    if best <= accuracy + 0.1 or best <= (1 + _majority(labels)) / 2:
        return None
    moved = [f"{s} -> {m}" for s, m in zip(said, meant, strict=True) if s != m and table[s, m]]
    return (
        f"with its labels in another order it would be {100 * best:.1f} % (its label -> the "
        f"data's: {', '.join(moved[:8])}); {_reordered(setup, meant)}"
    )


def _reordered(setup: Setup, meant: np.ndarray) -> str:
    """Say what to write so that output `s` of the teacher is taken as `meant[s]` of the data."""
    space, names = setup.dataset.space, setup.dataset.labels
    own = folder_labels(setup.folder("teacher"))
    count = len(meant)
    ids = space is None or space.holds_ids
    configured: Sequence[str] = setup.config.data.labels or ()
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


def _count(model: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.params))
