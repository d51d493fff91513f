"""Looks at data, teacher and student before they are trained, and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxdistill.config import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.errors import ConfigError
from jaxdistill.inspect import (
    checks_labels,
    checks_language,
    checks_machine,
    checks_sources,
    checks_teacher,
    checks_text,
)
from jaxdistill.inspect.findings import Finding, Setup
from jaxdistill.models.registry import Model

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CHECKS", "Finding", "examine", "findings_table", "stop_if_fatal"]

CHECKS = (
    checks_sources.sources,
    checks_text.tokenizers,
    checks_text.vocabulary,
    checks_text.lengths,
    checks_text.token_types,
    checks_labels.overlap,
    checks_labels.label_order,
    checks_labels.label_range,
    checks_teacher.teacher_head,
    checks_teacher.teacher_skill,
    checks_labels.evaluation_size,
    checks_teacher.sizes,
    checks_machine.devices,
    checks_machine.memory,
)
LANGUAGE_CHECKS = (
    checks_sources.sources,
    checks_text.tokenizers,
    checks_text.vocabulary,
    checks_text.lengths,
    checks_labels.overlap,
    checks_language.documents,
    checks_language.losses,
    checks_teacher.teacher_head,
    checks_language.teacher_skill,
    checks_teacher.sizes,
    checks_machine.devices,
    checks_machine.memory,
)


def examine(
    config: Config,
    dataset: Dataset,
    teacher: Model | None,
    student: Model | None,
    *,
    teacher_logits: np.ndarray | None = None,
    teacher_labels: np.ndarray | None = None,
) -> list[Finding]:
    """Run every check that has something to look at.

    Args:
      teacher: None where a cache stands for it.
      student: None where it can only be made after the teacher's fine-tune.
      teacher_logits: `[N, C]` of the teacher as it will teach, on held-out examples; None before
        its fine-tune, when it has no skill to check.
      teacher_labels: `[N]` (`[N, C]` for multi-label), what the data says about them.
    """
    setup = Setup(config, dataset, teacher, student, teacher_logits, teacher_labels)
    checks = LANGUAGE_CHECKS if config.task == "language_model" else CHECKS
    return [finding for check in checks for finding in check(setup)]


def findings_table(findings: Sequence[Finding]) -> Table:
    """Lay findings out, the worst first."""
    from rich.table import Table

    colors = {"fatal": "bold red", "warning": "yellow", "ok": "green"}
    table = Table("", "check", "finding", box=None, pad_edge=False)
    for level, color in colors.items():
        for finding in findings:
            if finding.level == level:
                table.add_row(f"[{color}]{level}[/]", finding.name, finding.message)
    return table


def stop_if_fatal(findings: Sequence[Finding]) -> None:
    """Raise ConfigError that holds every fatal finding, if there is one."""
    fatal = [
        f"{finding.name}: {finding.message}" for finding in findings if finding.level == "fatal"
    ]
    if fatal:
        raise ConfigError("; ".join(fatal))
