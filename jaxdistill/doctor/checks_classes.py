"""Checks of what labels are: classes or scores, one spelling each, and which of them F1 is of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from jaxdistill.config.spelling import fold
from jaxdistill.data.label_cells import made_of
from jaxdistill.data.label_names import as_number, conventional_positive, is_generic
from jaxdistill.doctor.findings import Check, Examined, Finding, quoted

_MANY = 20
_FEW = 5
_SCALES = ("score", "scores", "rating", "ratings", "stars", "grade", "points")


def class_kind(examined: Examined) -> Check:
    """Check that labels are classes, and not scores, identifiers, or several labels in one."""
    yield from _or_shown(examined, _class_faults(examined))


def set_kind(examined: Examined) -> Check:
    """Check that a row can have several labels, and that each of them is one."""
    yield from _or_shown(examined, _set_faults(examined))


def _or_shown(examined: Examined, faults: Iterator[Finding]) -> Check:
    """Pass faults on; where there are none, say what the labels are."""
    found = list(faults)
    yield from found or [Finding("ok", "labels", _shown(examined))]


def spelling(examined: Examined) -> Check:
    """Check that no two labels differ in case or in blanks only."""
    names = examined.dataset.labels
    if names is None:
        return
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[fold(name)].append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        yield Finding("ok", "spelling", "no two labels are spelled alike")
        return
    joined = ", ".join(quoted(_commonest(examined, group)) for group in groups.values())
    listed = "; ".join(" and ".join(map(repr, group)) for group in alike[:5])
    yield Finding(
        "warning",
        "spelling",
        f"{listed} are {len(names)} labels with the others, though they may be {len(groups)}: set "
        f"data.labels=[{joined}] to take them as one",
    )


def measured_label(examined: Examined) -> Check:
    """Say which label's F1 ranks the models, and whether its name or only its place decided."""
    config, dataset = examined.config, examined.dataset
    if config.ranking_metric != "f1":
        return
    if dataset.positive is None:
        message = "f1 is the mean over the labels"
        if config.task_record.outputs == "classes":
            message = "f1 is the mean over the classes that occur or are predicted"
        yield Finding("ok", "measured label", message)
        return
    names = dataset.labels or tuple(str(index) for index in range(dataset.num_labels))
    message = f"f1 is that of the label {names[dataset.positive]!r}"
    if config.data.positive is not None:
        yield Finding("ok", "measured label", f"{message}, as data.positive says")
    elif conventional_positive(names) is not None or dataset.labels is None:
        yield Finding("ok", "measured label", f"{message}; data.positive names another")
    else:
        other = names[1 - dataset.positive]
        yield Finding(
            "warning",
            "measured label",
            f"{message}, because it is the second; set data.positive={quoted(other)} if that of "
            f"{other!r} counts, or data.positive={quoted(names[dataset.positive])} to settle it",
        )


def _class_faults(examined: Examined) -> Iterator[Finding]:
    dataset, space = examined.dataset, examined.dataset.space
    names, labels = dataset.labels, dataset.train.labels
    if dataset.num_labels == 1:
        yield Finding(
            "fatal",
            "labels",
            f"every row has the same label{_named(names)}, so there is nothing to tell apart; set "
            "data.label to the column of labels, or give data with another class",
        )
        return
    counts = np.bincount(labels[labels >= 0])
    found = counts[counts > 0]
    numbers = names is None or all(as_number(name) is not None for name in names)
    if len(found) > _MANY and np.median(found) < _FEW:
        what = (
            "set task=regression if they are numbers on a scale"
            if numbers
            else ("check that data.label is the right column")
        )
        yield Finding(
            "warning",
            "labels",
            f"{len(found)} classes for {len(labels):,} training rows, half of them with fewer than "
            f"{_FEW}: {what}",
        )
    elif numbers and len(found) > 2 and space is not None:
        column = space.columns[0] if space.columns else ""
        if fold(column) in _SCALES:
            yield Finding(
                "warning",
                "labels",
                f"the numbers of the column {column!r} are read as {len(found)} classes without an "
                "order; set task=regression if they are scores",
            )
    for whole, pieces in made_of(names or ()):
        yield Finding(
            "warning",
            "labels",
            f"the label {whole!r} is made of the labels {pieces}; set task=multilabel if a row can "
            "have several",
        )
        break


def _set_faults(examined: Examined) -> Iterator[Finding]:
    names, labels = examined.dataset.labels, np.asarray(examined.dataset.train.labels)
    if labels.ndim != 2:
        return
    if labels.shape[1] > 1 and (labels.sum(axis=1) == 1).all():
        yield Finding(
            "warning",
            "labels",
            "every training row has exactly one label; set task=classification if there can be no "
            "more",
        )
    found: dict[bytes, int] = {}
    for index in np.flatnonzero(labels.sum(axis=0) > 2):
        first = found.setdefault(labels[:, index].tobytes(), int(index))
        if first != index:
            pair = [str(i) if names is None else names[i] for i in (first, index)]
            yield Finding(
                "warning",
                "labels",
                f"the labels {pair[0]!r} and {pair[1]!r} always occur together; if they are one "
                "name, give it in data.labels, or write rows as JSON lists",
            )
            break
    asked = np.asarray(examined.dataset.validation.labels)
    never = np.flatnonzero(asked.sum(axis=0) == 0)
    if len(never) and examined.config.ranking_metric == "f1":
        listed = ", ".join(str(i) if names is None else names[i] for i in never[:8])
        yield Finding(
            "warning",
            "labels",
            f"{len(never)} labels never occur in validation ({listed}), and each counts 0 in f1; "
            "hold out examples of them, or drop them",
        )


def _shown(examined: Examined) -> str:
    names, count = examined.dataset.labels, examined.dataset.num_labels
    if names is None or is_generic(names):
        return f"ids 0 to {count - 1}"
    space = examined.dataset.space
    shown = f"{', '.join(names[:8])}{', …' if count > 8 else ''}"
    if space is not None and space.by_name and all(as_number(name) is not None for name in names):
        return f"the numbers {shown} are names of the outputs 0 to {count - 1}"
    return f"{count} names: {shown}"


def _commonest(examined: Examined, group: list[str]) -> str:
    names, labels = list(examined.dataset.labels or ()), np.asarray(examined.dataset.train.labels)
    places = [names.index(name) for name in group]
    counts = [
        int((labels == place).sum() if labels.ndim == 1 else labels[:, place].sum())
        for place in places
    ]
    return group[int(np.argmax(counts))]


def _named(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" ({names[0]})"
