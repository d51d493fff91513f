"""The whole configuration schema, checked before anything heavy is imported."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from jaxdistill.config.checks import (
    check_fresh_heads,
    check_language_term,
    check_metric,
    check_objective,
    check_on_policy,
    check_task_losses,
    check_teacher,
)
from jaxdistill.config.data import DataConfig, TokenizerConfig
from jaxdistill.config.effects import check_effects
from jaxdistill.config.fields import ConfigFields
from jaxdistill.config.models import CacheConfig, StudentConfig, TeacherConfig
from jaxdistill.config.training import (
    CheckpointConfig,
    ParallelConfig,
    TelemetryConfig,
    TrainConfig,
)
from jaxdistill.errors import did_you_mean
from jaxdistill.tasks.registry import tasks

__all__ = [
    "CacheConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "ParallelConfig",
    "StudentConfig",
    "TeacherConfig",
    "TelemetryConfig",
    "TokenizerConfig",
    "TrainConfig",
]


class Config(ConfigFields):
    """A whole distillation run."""

    @field_validator("task")
    @classmethod
    def _is_a_task(cls, value: str) -> str:
        known = list(tasks())
        if value not in known:
            names = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
            raise ValueError(f"got {value!r}, expected {names}.{did_you_mean(value, known)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        check_teacher(self)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: got {list(self.seeds)}, expected each seed once")
        check_task_losses(self)
        for name, term in self.objective.items():
            check_language_term(self, name, term)
        check_objective(self)
        check_on_policy(self)
        check_fresh_heads(self)
        check_metric(self)
        check_effects(self)
        return self
