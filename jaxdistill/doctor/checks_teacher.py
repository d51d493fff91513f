"""Checks of the teacher: does it know more than the student could guess?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np

from jaxdistill.doctor.checks_labels import compare_labels
from jaxdistill.doctor.checks_models import head_labels
from jaxdistill.doctor.findings import Check, Finding, Setup, quoted
from jaxdistill.evaluation.metrics import compute_metrics, decide
from jaxdistill.files.model_folder import some
from jaxdistill.models.registry import Model, family_named

_FEW_CLASSES = 16
_WEAK = 0.1
_SHARES = ("accuracy", "exact_match")


def teacher_head(setup: Setup) -> Check:
    """Check that a teacher which is taken as it is has been trained for the task."""
    teacher = setup.teacher
    if teacher is None or setup.config.finetune is not None:
        return
    if teacher.initialized:
        where = "" if teacher.source is None else f"{teacher.source} holds no {_stored(teacher)}: "
        yield Finding(
            "fatal",
            "teacher head",
            f"{where}finetune is null, but {len(teacher.initialized)} of the teacher's parameters "
            f"are freshly initialised ({teacher.initialized[0]}, …), and such a teacher has "
            "nothing to teach; drop `finetune: null`, or give a teacher fine-tuned on the task",
        )
    else:
        yield Finding("ok", "teacher head", "every parameter of the teacher comes from its folder")


def teacher_skill(setup: Setup) -> Check:
    """Check the teacher, by the metric that ranks, against always giving the same answer."""
    logits, labels = setup.teacher_logits, setup.teacher_labels
    if logits is None or labels is None:
        return
    task, metric = setup.config.task, setup.config.ranking_metric
    remedy = (
        "give a teacher that was fine-tuned on this task, or let finetune train it"
        if setup.config.finetune is None
        else "train it longer or with another finetune.learning_rate"
    )
    positive = setup.dataset.positive
    found = compute_metrics(task, logits, labels, [metric], positive=positive)[metric]
    blind = blind_value(task, metric, labels, logits.shape[-1], positive=positive)
    told = f"the teacher's {metric} is {_written(metric, found)}, {_blindly(task, metric, blind)}"
    order = _better_order(setup, logits, labels) if task == "classification" else None
    gain = found - blind if setup.config.higher_is_better else blind - found
    if order is not None:
        yield Finding("fatal", "teacher skill", f"{told}; {order}")
    elif gain <= 0:
        tie = association(task, logits, labels)
        if tie <= max(_WEAK, 3 / math.sqrt(len(labels))):
            yield Finding("fatal", "teacher skill", f"{told}; it has nothing to teach: {remedy}")
            return
        knows = f"though its answers go with the labels (a correlation of {tie:.2f})"
        if metric in _SHARES:
            told = f"{told}, {knows}; it has nothing to teach by this metric: set metric=f1 if "
            yield Finding("fatal", "teacher skill", f"{told}rare labels matter, or {remedy}")
        else:
            yield Finding("warning", "teacher skill", f"{told}, {knows}: {remedy}")
    elif gain <= 2 * _error(metric, blind, len(labels)):
        yield Finding("warning", "teacher skill", f"{told}, which is hardly less: {remedy}")
    else:
        yield Finding("ok", "teacher skill", told)


def blind_value(
    task: str, metric: str, labels: np.ndarray, classes: int, *, positive: int | None = None
) -> float:
    """Return the best value of a metric that one answer for all examples reaches.

    Such answers are each of the commonest classes; no label, every label and the commonest set of
    labels; or the mean of values.

    Args:
      task: `classification`, `multilabel` or `regression`.
      metric: one of the task's.
      labels: `[N]` ids, `[N, C]` zeros and ones, or `[N]` values.
      classes: `C`.
      positive: the label that F1 is of, see `compute_metrics`.
    """
    if task == "regression":
        return float(np.var(np.asarray(labels, np.float64))) if metric == "mse" else 0.0
    if task == "classification":
        ids, counts = np.unique(labels, return_counts=True)
        common = ids[np.argsort(-counts, kind="stable")][:_FEW_CLASSES].astype(int)
        answers = list(np.eye(classes)[common])
    else:
        rows, counts = np.unique(labels, axis=0, return_counts=True)
        commonest = np.where(rows[counts.argmax()] > 0, 1.0, -1.0)
        answers = [commonest, -np.ones(classes), np.ones(classes)]

    def reached(answer: np.ndarray) -> float:
        logits = np.tile(answer, (len(labels), 1))
        return compute_metrics(task, logits, labels, [metric], positive=positive)[metric]

    return max(map(reached, answers))


def association(task: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """Return how far answers go with labels, whatever their base rate: 1 for ever, 0 for not.

    Matthews' correlation of classes, Pearson's of the deviations of all label decisions from their
    label's mean, or Spearman's of values.
    """
    if task != "multilabel":
        name = "spearman" if task == "regression" else "matthews"
        return compute_metrics(task, logits, labels, [name])[name]
    said, meant = decide(task, logits).astype(np.float64), np.asarray(labels, np.float64)
    said, meant = said - said.mean(0), meant - meant.mean(0)
    spread = math.sqrt(float(np.square(said).sum() * np.square(meant).sum()))
    return float((said * meant).sum()) / spread if spread > 0 else 0.0


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


def _blindly(task: str, metric: str, blind: float) -> str:
    """Say what an answer that is always the same reaches."""
    if task == "regression":
        return f"that of always saying the mean is {_written(metric, blind)}"
    return f"that of always giving one answer is {_written(metric, blind)} at best"


def _written(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric in _SHARES else f"{value:.3f}"


def _error(metric: str, blind: float, count: int) -> float:
    """Return the standard error of a metric without skill, where it is a share or a correlation."""
    if metric in _SHARES:
        return math.sqrt(blind * (1 - blind) / count)
    return 1 / math.sqrt(count) if metric in ("matthews", "pearson", "spearman") else 0.0


def _stored(model: Model) -> str:
    """Name what a checkpoint lacks as its file would."""
    if model.family is None or model.options is None:
        return model.initialized[0]
    rules = family_named(model.family).rules(model.config, model.options)
    theirs = {rule.ours: rule.theirs for rule in rules}
    return some([theirs.get(path, path) for path in model.initialized])


def _better_order(setup: Setup, logits: np.ndarray, labels: np.ndarray) -> str | None:
    """Say which order of the labels would make a bad teacher a good one, if there is one."""
    from scipy.optimize import linear_sum_assignment

    classes = logits.shape[-1]
    table = np.zeros((classes, classes), np.int64)  # [said, meant]
    np.add.at(table, (decide("classification", logits), labels), 1)
    accuracy = table.trace() / len(labels)
    said, meant = linear_sum_assignment(-table)
    best = table[said, meant].sum() / len(labels)
    # Noise, too, is a little better in some other order: only a good teacher is worth telling.
    majority = np.bincount(labels).max() / len(labels)
    if best <= accuracy + 0.1 or best <= (1 + majority) / 2:
        return None
    moved = [f"{s} -> {m}" for s, m in zip(said, meant, strict=True) if s != m and table[s, m]]
    return (
        f"with its labels in another order it would be {100 * best:.1f} % (its label -> the "
        f"data's: {', '.join(moved[:8])}); {_reordered(setup, meant)}"
    )


def _reordered(setup: Setup, meant: np.ndarray) -> str:
    """Say what to write so that output `s` of the teacher is taken as `meant[s]` of the data."""
    space, names = setup.dataset.space, setup.dataset.labels
    own = head_labels(setup.config, "teacher")
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
