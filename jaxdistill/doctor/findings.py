"""What the doctor works on and what it says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.models.registry import Model

Level = Literal["fatal", "warning", "ok"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check; the message of anything but `ok` says what to do."""

    level: Level
    name: str
    message: str


@dataclasses.dataclass(frozen=True)
class Examined:
    """Everything a check may look at.

    Attributes:
      teacher: None where a cache stands for it.
      student: None where it can only be made after the teacher's fine-tune.
      teacher_logits: `[N, C]` of the teacher as it will teach, or None before its fine-tune.
      teacher_labels: what the data says about the same examples.
    """

    config: Config
    dataset: Dataset
    teacher: Model | None
    student: Model | None
    teacher_logits: np.ndarray | None = None
    teacher_labels: np.ndarray | None = None

    @property
    def models(self) -> dict[str, Model]:
        """The teacher and, where there is one, the student."""
        found = {"teacher": self.teacher, "student": self.student}
        return {name: model for name, model in found.items() if model is not None}

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist."""
        data = self.dataset
        found = {"train": data.train, "validation": data.validation, "test": data.test}
        return {name: split for name, split in found.items() if split is not None}

    def folder(self, name: str) -> Path | None:
        """Return the folder that the configuration gives for a model, or None."""
        origin = getattr(self.config, name).model
        return Path(origin) if isinstance(origin, str) else None


Check = Iterator[Finding]
"""A check yields what it found: one `ok`, or its warnings and fatal findings."""


def quoted(name: str) -> str:
    """Write a name as it can stand in a list of YAML."""
    plain = re.fullmatch(r"[^\W\d_][\w-]*", name)
    words = ("yes", "no", "true", "false", "on", "off", "y", "n", "null", "none")
    if plain and name.casefold() not in words:
        return name
    return "'" + name.replace("'", "''") + "'"
