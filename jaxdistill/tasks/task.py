"""What a task says of itself: what labels and outputs mean, and how they are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxdistill.config.plugins import Target
from jaxdistill.errors import ConfigError

Outputs = Literal["classes", "decisions", "values", "tokens"]
Kind = Literal["share", "correlation", "amount"]

CHECKS: tuple[Target, ...] = (
    "jaxdistill.doctor.checks_models:problem_type",
    "jaxdistill.doctor.checks_encoder:pooling",
    "jaxdistill.doctor.checks_labels:label_range",
    "jaxdistill.doctor.checks_classes:measured_label",
    "jaxdistill.doctor.checks_teacher:teacher_skill",
    "jaxdistill.doctor.checks_labels:evaluation_size",
)
"""Checks of the doctor for models with a head of labels."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of predictions, by which models are ranked or described.

    Attributes:
      name: name in configs; tasks may share a name if all but `function` and `hits` is equal.
      function: `(logits, labels, *, positive) -> float`; `positive` is the label that an F1 is of.
      higher_is_better: the direction in which models improve.
      kind: a `share` of examples is shown in percent and compared in points; a `correlation` lies
        between -1 and 1, and an `amount` has a unit.
      decimals: digits after the point, where the metric is no share.
      hits: `(logits, labels) -> bool [N]`, given where the metric is the mean of right answers, so
        that its error is known without resampling.
    """

    name: str
    function: Target
    higher_is_better: bool = True
    kind: Kind = "amount"
    decimals: int = 4
    hits: Target | None = None

    @property
    def form(self) -> tuple[bool, Kind, int]:
        """What has to be equal for all metrics of one name."""
        return self.higher_is_better, self.kind, self.decimals


@dataclasses.dataclass(frozen=True)
class Task:
    """What labels and outputs mean.

    Functions are given as themselves or as `package.module:name`, which is imported on first use,
    so that a config that names the task can be checked without importing jax.

    Attributes:
      name: name in configs.
      summary: one sentence, for `jaxdistill methods`.
      outputs: one distribution over `classes`, a `decision` of yes or no for each output, `values`,
        or the next `tokens` of a vocabulary. Labels are int32 `[B]`, float32 `[B, C]` of zeros and
        ones, float32 `[B]`, or int32 `[B, T]`.
      loss: name of the method that compares outputs with labels.
      soft: loss and options of the term that compares both models where a config has no objective.
      metrics: known to the task; the first ranks models where a config names none.
      measured: names of those measured at every evaluation beside the one that ranks.
      tabled: names of those in the final table beside the one that ranks.
      decide: `(logits) -> predictions`.
      agreement: `(student_logits, teacher_logits) -> float`, 1 where both say the same.
      agreement_is_share: whether that is a share, shown in percent, and no correlation.
      find_labels: `(table, data_config, inputs) -> columns` that hold the labels.
      label_space: `(table, columns, *, labels, num_labels, id_names, outputs) -> LabelSpace`, whose
        `count` is the number of the head's outputs.
      encode_labels: `(table, columns, space) -> labels`, as `outputs` says.
      label_fault: `(labels, count) -> str | None`, what is wrong with encoded labels.
      blind: `(labels, outputs) -> [K, C]`, the answers among which the best that is the same for
        every example is, for the doctor.
      association: `(logits, labels) -> float`, how far answers go with labels whatever their base
        rate, for the doctor.
      explain: `(examined, logits, labels) -> str | None`, what would make a bad teacher good.
      figures: `(logits, labels, names) -> iterator of (title, caption, address)`, of the report;
        `logits` maps a model to `[S, N, C]`.
      checks: checks of the doctor: `(examined) -> iterator of findings`.
      problem_type: name of the task in a `config.json`; None where the head's architecture says it.
      head: head of the models, as families name it.
      writes: whether the student can write text, so that it can learn from it.
      documents: whether it reads documents packed into rows, whose labels are their tokens.
      score_step: `(apply) -> step(params, batch, model_state) -> (scores, metrics)`, where scores
        stand for logits; by default the logits are kept.

    Raises:
      ConfigError: parts that do not go together.
    """

    name: str
    summary: str
    outputs: Outputs
    loss: str
    soft: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    decide: Target
    agreement: Target
    agreement_is_share: bool = True
    find_labels: Target | None = None
    label_space: Target | None = None
    encode_labels: Target | None = None
    label_fault: Target | None = None
    blind: Target | None = None
    association: Target | None = None
    explain: Target | None = None
    figures: Target | None = None
    checks: tuple[Target, ...] = CHECKS
    measured: tuple[str, ...] = ()
    tabled: tuple[str, ...] = ()
    problem_type: str | None = None
    head: str = "classification"
    writes: bool = False
    documents: bool = False
    score_step: Target | None = None

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault is not None:
            raise ConfigError(f"task {self.name!r}: {fault}")

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def over_vocabulary(self) -> bool:
        """Whether outputs are the tokens of a vocabulary."""
        return self.outputs == "tokens"

    @property
    def named_outputs(self) -> bool:
        """Whether each output stands for a label that has a name."""
        return self.outputs in ("classes", "decisions")

    def metric(self, name: str) -> Metric:
        """Return one of the task's metrics.

        Raises:
          KeyError: the task has no such metric.
        """
        return {metric.name: metric for metric in self.metrics}[name]


def _fault(task: Task) -> str | None:
    """Say what is wrong with a declaration: what nothing would read, or what is missing."""
    if task.outputs not in get_args(Outputs):
        return f"outputs: got {task.outputs!r}, expected one of {list(get_args(Outputs))}"
    if not task.metrics:
        return "metrics: got none, expected at least the one that ranks models"
    names = [metric.name for metric in task.metrics]
    if len(set(names)) != len(names):
        return f"metrics: got {names}, expected each name once"
    for field in ("measured", "tabled"):
        unknown = [name for name in getattr(task, field) if name not in names]
        if unknown:
            return f"{field}: got {unknown[0]!r}, expected one of {names}"
    if "loss" not in task.soft:
        return "soft: got no 'loss', expected the name of a method that compares both models"
    if not task.documents:
        labelled = ("find_labels", "label_space", "encode_labels", "blind", "association")
        missing = [name for name in labelled if getattr(task, name) is None]
        if missing:
            return f"{missing[0]}: got nothing, expected a function, since examples have labels"
    return None
