"""The fields of a configuration, and what they say together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from jaxdistill.config.base import Judgement, Section
from jaxdistill.config.data import DataConfig
from jaxdistill.config.generation import GenerateConfig, OnPolicyConfig
from jaxdistill.config.models import CacheConfig, StudentConfig, TeacherConfig
from jaxdistill.config.objective import TermConfig, make_term, read_term
from jaxdistill.config.training import (
    CheckpointConfig,
    ParallelConfig,
    TelemetryConfig,
    TrainConfig,
)
from jaxdistill.tasks.registry import task_named
from jaxdistill.tasks.task import Task


class ConfigFields(Section):
    """The fields of a run's configuration, each of them valid; `Config` checks them together."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "run"
    """Name of the run, and of its work directory."""
    description: str = ""
    """Description of the run, for the report."""
    task: str = "classification"
    """What is learned: `classification`, `multilabel`, `regression`, `language_model`, or a task
    that a plugin brings."""
    metric: str | None = None
    """Metric that ranks models; by default the first that `jaxdistill methods` lists for the task,
    such as accuracy, exact_match, spearman or perplexity."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds, each of which trains one student alone and one distilled."""
    data: DataConfig
    """Source of the examples, and the way that they become batches."""
    teacher: TeacherConfig
    """Large model that teaches."""
    student: StudentConfig
    """Small model that learns."""
    finetune: TrainConfig | None = TrainConfig()
    """Training of the teacher; null takes the teacher as it is."""
    train: TrainConfig = TrainConfig()
    """Training of the student, with and without the teacher."""
    objective: dict[str, Annotated[SerializeAsAny[TermConfig], BeforeValidator(read_term)]] = Field(
        default_factory=dict
    )
    """Weighted terms by name, each with a `loss`; by default the usual pair of the task."""
    losses: Literal["fused", "dense"] = "fused"
    """How a language model's losses come from hidden states: in chunks of tokens, so that logits
    `[tokens, vocabulary]` never exist, or from whole logits."""
    cache: CacheConfig | None = None
    """Keep the teacher's outputs over the training data on disk, and train from them."""
    on_policy: OnPolicyConfig | None = None
    """Let the student write a share of the batches that it is distilled on."""
    accept: tuple[Judgement, ...] = ()
    """Fatal findings of the doctor to go on with all the same, e.g. `[teacher_skill]`."""
    generate: GenerateConfig = GenerateConfig()
    """Settings of `jaxdistill generate`; have no part in a run."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints: how often, and which are kept."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Metrics: how often, and where they go."""
    parallel: ParallelConfig = ParallelConfig()
    """Layout over devices."""

    @property
    def task_record(self) -> Task:
        """What the task says of itself."""
        return task_named(self.task)

    @property
    def ranking_metric(self) -> str:
        """The metric that ranks models."""
        return self.metric or self.task_record.metrics[0].name

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the ranking metric is better."""
        return self.task_record.metric(self.ranking_metric).higher_is_better

    @property
    def default_codec(self) -> Literal["sampled", "full"]:
        """How a cache keeps the teacher's outputs where the config does not say."""
        return "sampled" if self.task_record.over_vocabulary else "full"

    @property
    def fuses(self) -> bool:
        """Whether losses work from hidden states, so that no logits are made."""
        return self.task_record.over_vocabulary and self.losses == "fused"

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The objective's terms: those given, or the task's usual pair."""
        if self.objective:
            return self.objective
        task = self.task_record
        soft, hard = make_term(**task.soft, weight=0.5), make_term(task.loss, weight=0.5)
        return {"soft": soft, "hard": hard}

    @property
    def supervised_terms(self) -> dict[str, TermConfig]:
        """The terms on labels alone, of weight 1: what fine-tune and baseline train on."""
        given = {k: term for k, term in self.terms.items() if term.method.reads == "labels"}
        given = given or {"hard": make_term(self.task_record.loss)}
        return {k: term.model_copy(update={"weight": 1.0}) for k, term in given.items()}
