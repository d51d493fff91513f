"""Checks of the teacher: does it know more than the student could guess?"""

from __future__ import annotations

import math

import jax
import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.evaluation.metrics import compute_metrics
from jaxdistill.files.model_folder import some
from jaxdistill.models.registry import Model, family_named
from jaxdistill.tasks.registry import task_named
from jaxdistill.tasks.task import Metric

_WEAK = 0.1


def teacher_head(examined: Examined) -> Check:
    """Check that a teacher which is taken as it is has been trained for the task."""
    teacher = examined.teacher
    if teacher is None or examined.config.finetune is not None:
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


def teacher_skill(examined: Examined) -> Check:
    """Check the teacher, by the metric that ranks, against always giving the same answer."""
    logits, labels = examined.teacher_logits, examined.teacher_labels
    if logits is None or labels is None:
        return
    # Of a row with classes at -inf, the largest tells whether it is a distribution at all.
    nothing = says_nothing(np.max(logits, axis=-1))
    if nothing is not None:
        yield nothing
        return
    task, metric = examined.config.task_record, examined.config.ranking_metric
    remedy = (
        "give a teacher that was fine-tuned on this task, or let finetune train it"
        if examined.config.finetune is None
        else "train it longer or with another finetune.learning_rate"
    )
    positive = examined.dataset.positive
    found = compute_metrics(task.name, logits, labels, [metric], positive=positive)[metric]
    blind = blind_value(task.name, metric, labels, logits.shape[-1], positive=positive)
    known = task.metric(metric)
    message = (
        f"the teacher's {metric} is {_written(known, found)}, that of always giving one answer is "
        f"{_written(known, blind)} at best"
    )
    order = None if task.explain is None else function_of(task.explain)(examined, logits, labels)
    gain = found - blind if examined.config.higher_is_better else blind - found
    if order is not None:
        yield Finding("fatal", "teacher skill", f"{message}; {order}")
    elif gain <= 0:
        assert task.association is not None  # of a task with labels
        tie = function_of(task.association)(logits, labels)
        if tie <= max(_WEAK, 3 / math.sqrt(len(labels))):
            yield Finding("fatal", "teacher skill", f"{message}; it has nothing to teach: {remedy}")
            return
        knows = f"though its answers go with the labels (a correlation of {tie:.2f})"
        if known.hits is not None:
            message = (
                f"{message}, {knows}; it has nothing to teach by this metric: set metric=f1 if "
            )
            yield Finding("fatal", "teacher skill", f"{message}rare labels matter, or {remedy}")
        else:
            yield Finding("warning", "teacher skill", f"{message}, {knows}: {remedy}")
    elif gain <= 2 * _error(known, blind, len(labels)):
        yield Finding("warning", "teacher skill", f"{message}, which is hardly less: {remedy}")
    else:
        yield Finding("ok", "teacher skill", message)


def says_nothing(values: np.ndarray) -> Finding | None:
    """Return the fatal finding that some of a teacher's values `[N]`, one per row, are no numbers.

    Nothing compares with NaN, and losses of such a row teach nothing or destroy the student.
    """
    broken = np.flatnonzero(~np.isfinite(values))
    if not broken.size:
        return None
    return Finding(
        "fatal",
        "teacher skill",
        f"the teacher says {values[broken[0]]} in {broken.size:,} of {len(values):,} rows, "
        "expected finite numbers; it has nothing to teach: its weights or its config.json are "
        "damaged (copy them again), or its training diverged (lower finetune.learning_rate)",
    )


def blind_value(
    task: str, metric: str, labels: np.ndarray, outputs: int, *, positive: int | None = None
) -> float:
    """Return the best value of a metric that one answer for all examples reaches.

    Args:
      task: the name of a task, whose `blind` gives the answers.
      metric: one of the task's.
      labels: `[N, ...]`.
      outputs: `C`.
      positive: the label that F1 is of, see `compute_metrics`.
    """
    record = task_named(task)
    assert record.blind is not None  # of a task with labels

    def reached(answer: np.ndarray) -> float:
        logits = np.tile(answer, (len(labels), 1))
        return compute_metrics(task, logits, labels, [metric], positive=positive)[metric]

    best = max if record.metric(metric).higher_is_better else min
    return best(map(reached, function_of(record.blind)(labels, outputs)))


def sizes(examined: Examined) -> Check:
    """Check that the student is the smaller one."""
    if examined.teacher is None or examined.student is None:
        return
    teacher, student = (_count(model) for model in (examined.teacher, examined.student))
    message = f"teacher {teacher:,} parameters, student {student:,}"
    if student >= teacher:
        yield Finding(
            "warning", "size", f"{message}: the student is not smaller; are the two exchanged?"
        )
    else:
        yield Finding("ok", "size", f"{message} ({100 * student / teacher:.0f} %)")


def _written(metric: Metric, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.hits is not None else f"{value:.3f}"


def _error(metric: Metric, blind: float, count: int) -> float:
    """Return the standard error of a metric without skill, where it is a share or a correlation."""
    if metric.hits is not None:
        return math.sqrt(blind * (1 - blind) / count)
    return 1 / math.sqrt(count) if metric.kind == "correlation" else 0.0


def _stored(model: Model) -> str:
    """Name what a checkpoint lacks as its file would."""
    if model.family is None or model.options is None:
        return model.initialized[0]
    rules = family_named(model.family).rules(model.config, model.options)
    theirs = {rule.ours: rule.theirs for rule in rules}
    return some([theirs.get(path, path) for path in model.initialized])


def _count(model: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.params))
