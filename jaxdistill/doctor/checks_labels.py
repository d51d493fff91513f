"""Checks of labels and splits: order, range, what was trained on, how much is held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.spelling import fold
from jaxdistill.data.label_names import is_generic
from jaxdistill.doctor.checks_models import head_labels
from jaxdistill.doctor.findings import Check, Examined, Finding

_FEW = 200
_SEEN_SHARE = 0.01


def label_order(examined: Examined) -> Check:
    """Check that teacher, student and data mean the same by the same label id."""
    names = {"the data": examined.dataset.labels}
    for who, side, model in (
        ("the teacher", "teacher", examined.teacher),
        ("the student", "student", examined.student),
    ):
        # A model that was read has its outputs in the order of the data already.
        names[who] = head_labels(examined.config, side) if model is None else model.labels
    known = {who: tuple(n) for who, n in names.items() if n is not None and not is_generic(n)}
    healthy = True
    owners = list(known)
    for position, first in enumerate(owners):
        for second in owners[position + 1 :]:
            problem = compare_labels(known[first], known[second])
            if problem is None:
                continue
            healthy = False
            shown = f"{first} has {list(known[first])}, {second} has {list(known[second])}"
            if problem == "order":
                order = known["the teacher"] if "the teacher" in known else known[first]
                yield Finding(
                    "fatal",
                    "label order",
                    f"the same labels in another order: {shown}; use models that share the order "
                    f"[{', '.join(order)}]",
                )
            else:
                yield Finding(
                    "warning",
                    "label order",
                    f"labels of other names are matched by their position: {shown}; check that "
                    "position 0 means the same in both",
                )
    if healthy:
        yield _agreed_order(examined, list(known))


def _agreed_order(examined: Examined, owners: list[str]) -> Finding:
    """Say how the order is known, and what cannot be known of bare ids."""
    space, names = examined.dataset.space, examined.dataset.labels
    if len(owners) < 2 or names is None:
        message = "labels are ids without names to compare; the teacher's skill is their check"
        return Finding("ok", "label order", message)
    message = f"{', '.join(owners)}: the same order"
    bare = space is not None and space.holds_ids and space.source_names is None
    if not bare or examined.folder("teacher") is None:
        return Finding("ok", "label order", message)
    table = ", ".join(f"{index} = {name}" for index, name in enumerate(names[:8]))
    if examined.config.finetune is None:
        message = f"the data's bare ids are taken as {table}; the teacher's skill is their check"
        return Finding("ok", "label order", message)
    return Finding(
        "warning",
        "label order",
        f"the data has bare ids, which are taken as the teacher's {table}; if the data counts them "
        "otherwise, list these names in the order of its ids as data.labels",
    )


def compare_labels(first: Sequence[str], second: Sequence[str]) -> str | None:
    """Return None where two lists agree, `order` for the same names reordered, else `names`."""
    ours, theirs = ([fold(name) for name in names] for names in (first, second))
    if ours == theirs:
        return None
    return "order" if sorted(ours) == sorted(theirs) else "names"


def label_range(examined: Examined) -> Check:
    """Check that labels are in range, and that models have as many outputs."""
    count, find = examined.dataset.num_labels, examined.config.task_record.label_fault
    healthy = True
    for part, split in examined.splits.items():
        bad = None if find is None else function_of(find)(split.labels, count)
        if bad:
            healthy = False
            yield Finding("fatal", "label range", f"{part}: {bad}")
    for name, model in examined.models.items():
        outputs = None if model.options is None else model.options.num_labels
        if outputs is not None and outputs != count:
            healthy = False
            yield Finding(
                "fatal",
                "label range",
                f"the {name} has {outputs} outputs, the data has {count} labels; give the {name} "
                "a head of that size, or the labels as data.labels",
            )
    if healthy:
        yield Finding("ok", "label range", f"{count} labels, all in range")


def classes_taught(examined: Examined) -> Check:
    """Check that every class that is measured was taught, and every one taught is measured."""
    count = examined.dataset.num_labels
    train, validation = examined.dataset.train.labels, examined.dataset.validation.labels
    if any(class_fault(labels, count) for labels in (train, validation)):
        return  # The label range is the fault.
    taught, asked = (np.bincount(labels, minlength=count) for labels in (train, validation))
    untaught = np.flatnonzero((taught == 0) & (asked > 0))
    if len(untaught):
        yield Finding(
            "warning",
            "classes",
            f"{len(untaught)} classes of validation never occur in train "
            f"({_named(examined, untaught)}); add examples of them, or drop them",
        )
    unasked = np.flatnonzero((taught > 0) & (asked == 0))
    if len(unasked):
        yield Finding(
            "warning",
            "classes",
            f"{len(unasked)} of {count} classes never occur in validation "
            f"({_named(examined, unasked)}), so nothing is measured of them; hold out examples",
        )
    if not len(untaught) and not len(unasked):
        yield Finding("ok", "classes", "those of train and of validation are the same")


def overlap(examined: Examined) -> Check:
    """Check how much of what is measured was trained on."""
    notes = examined.dataset.notes
    healthy = True
    for part in ("validation", "test"):
        seen, rows = notes.get(f"{part}.seen", 0), notes.get(f"{part}.rows", 0)
        if rows and seen / rows > _SEEN_SHARE:
            healthy = False
            yield Finding(
                "warning",
                "overlap",
                f"{seen:,} of {rows:,} inputs of {part} ({100 * seen / rows:.1f} %) are also in "
                "train, so results look better than they are; remove them from train",
            )
    if healthy:
        seen = sum(notes.get(f"{part}.seen", 0) for part in ("validation", "test"))
        yield Finding("ok", "overlap", f"{seen:,} held-out inputs are also in train")


def evaluation_size(examined: Examined) -> Check:
    """Check that the held-out split is large enough to tell anything."""
    split = examined.dataset.validation if examined.dataset.test is None else examined.dataset.test
    count, noise = len(split), 100 / math.sqrt(len(split))
    message = f"{count:,} held-out examples know an accuracy to about ±{noise:.1f} points at worst"
    if count < _FEW:
        yield Finding("warning", "evaluation size", f"{message}; hold out more")
    else:
        yield Finding("ok", "evaluation size", message)


def class_fault(labels: np.ndarray, count: int) -> str | None:
    """Return what is wrong with ids `[N]` of classes, or None."""
    bad = (labels < 0) | (labels >= count)
    if not bad.any():
        return None
    return (
        f"{int(bad.sum())} labels are outside 0 to {count - 1} (e.g. {labels[bad][0]}); "
        "correct the rows, or name every label in data.labels"
    )


def decision_fault(labels: np.ndarray, count: int) -> str | None:
    """Return what is wrong with rows `[N, C]` of 0 and 1, or None."""
    bad = ~np.isin(labels, (0, 1))
    if not bad.any():
        return None
    return f"{int(bad.sum())} labels are neither 0 nor 1 (e.g. {labels[bad][0]}); correct them"


def value_fault(labels: np.ndarray, count: int) -> str | None:
    """Return what is wrong with numbers `[N]`, or None."""
    bad = ~np.isfinite(labels)
    return f"{int(bad.sum())} labels are no finite numbers; drop the rows" if bad.any() else None


def _named(examined: Examined, ids: np.ndarray) -> str:
    names = examined.dataset.labels
    return ", ".join(str(i) if names is None else names[i] for i in ids[:8])
