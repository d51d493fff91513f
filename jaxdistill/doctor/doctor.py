"""Looks at data, teacher and student before they are trained, and says what is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from jaxdistill.config.base import Judgement
from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.doctor import (
    checks_labels,
    checks_machine,
    checks_options,
    checks_shapes,
    checks_sources,
    checks_teacher,
)
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.errors import ConfigError
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.registry import Model

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Finding", "checks_of", "examine", "findings_table", "stop_if_fatal"]

_JUDGEMENTS = {name.replace("_", " "): name for name in get_args(Judgement)}

CHECKS = (
    checks_labels.overlap,
    checks_teacher.teacher_head,
    checks_teacher.sizes,
    checks_shapes.shapes,
    checks_options.objective,
    checks_options.options,
    checks_options.lengths,
    checks_machine.devices,
    checks_machine.memory,
)
"""Checks of every run; each kind of input and each task has more."""


def checks_of(config: Config, modality: str) -> tuple[Callable[[Examined], Check], ...]:
    """Return the checks of a run: of its inputs, those of every run, then those of its task."""
    inputs = map(function_of, modality_named(modality).checks)
    return (checks_sources.sources, *inputs, *CHECKS, *map(function_of, config.task_record.checks))


def examine(
    config: Config,
    dataset: Dataset,
    teacher: Model | None,
    student: Model | None,
    *,
    teacher_logits: np.ndarray | None = None,
    teacher_labels: np.ndarray | None = None,
) -> list[Finding]:
    """Run every check that has something to look at: of the inputs, then of the task.

    Args:
      teacher: None where a cache stands for it.
      student: None where it can only be made after the teacher's fine-tune.
      teacher_logits: `[N, C]` of the teacher as it will teach, on held-out examples; None before
        its fine-tune, when it has no skill to check.
      teacher_labels: `[N]` (`[N, C]` for multi-label), what the data says about them.
    """
    examined = Examined(config, dataset, teacher, student, teacher_logits, teacher_labels)
    checks = checks_of(config, dataset.modality)
    found = [finding for check in checks for finding in check(examined)]
    return [_accepted(config, finding) for finding in found]


def _accepted(config: Config, finding: Finding) -> Finding:
    """Let a run go on with a fatal judgement that its configuration accepts, or say how it can."""
    key = _JUDGEMENTS.get(finding.name)
    if finding.level != "fatal" or key is None:
        return finding
    if key in config.accept:
        return dataclasses.replace(finding, level="warning", message=f"accepted: {finding.message}")
    return dataclasses.replace(
        finding, message=f"{finding.message}; or go on all the same with accept=[{key}]"
    )


def findings_table(findings: Sequence[Finding]) -> Table:
    """Lay findings out, the worst first."""
    from rich.markup import escape
    from rich.table import Table

    colors = {"fatal": "bold red", "warning": "yellow", "ok": "green"}
    table = Table("", "check", "finding", box=None, pad_edge=False)
    for level, color in colors.items():
        for finding in findings:
            if finding.level == level:
                table.add_row(f"[{color}]{level}[/]", finding.name, escape(finding.message))
    return table


def stop_if_fatal(findings: Sequence[Finding]) -> None:
    """Raise ConfigError that holds every fatal finding, if there is one."""
    fatal = [
        f"{finding.name}: {finding.message}" for finding in findings if finding.level == "fatal"
    ]
    if fatal:
        raise ConfigError("; ".join(fatal))
