"""What a stage is made of, decided once from shapes, for all that run, time, plan or check it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax

from jaxdistill.config.schema import Config, TokenizerConfig, TrainConfig
from jaxdistill.errors import ConfigError
from jaxdistill.models.registry import Model
from jaxdistill.setup.codec import choose_codec
from jaxdistill.setup.facts import Facts, example_of, tokens_among
from jaxdistill.setup.projections import make_method_state, make_projections
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.live import live
from jaxdistill.teachers.targets import Stored
from jaxdistill.teachers.teacher import Teacher

Kind = Literal["live", "memory", "cache"]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one stage trains, and from what.

    Attributes:
      config: of the run.
      train: the settings of the stage.
      student: as it is laid out for training; its parameters may be shapes.
      teacher: who speaks; None for a fine-tune or a baseline.
      projections: maps that are trained beside the student, by term, or their shapes.
      method_state: what terms carry from step to step, by term, before the first; or None.
      total_steps: updates of the stage, for its schedules.
      writes: tokens of `make_continue` where the student writes a share of the batches, else None.
    """

    config: Config
    train: TrainConfig
    student: Model
    teacher: Teacher | None
    total_steps: int
    projections: dict[str, Any] = dataclasses.field(default_factory=dict)
    method_state: dict[str, Any] | None = None
    writes: dict[str, Any] | None = None


def resolve(
    config: Config,
    train: TrainConfig,
    facts: Facts,
    student: Model,
    teacher: Model | Stored | None,
    *,
    total_steps: int,
) -> Setup:
    """Decide what a stage is made of.

    Args:
      config: of the run.
      train: the settings of the stage.
      facts: what the data say.
      student: as it is laid out for training; its parameters may be shapes.
      teacher: a model that runs in every step, or what is known of its stored outputs; None for a
        fine-tune or a baseline.
      total_steps: updates of the stage.

    Raises:
      ConfigError: layers of the objective that the models do not have, or vocabularies that do not
        go together.
    """
    if teacher is None:
        return Setup(config, train, student, None, total_steps)
    vocabulary = None
    if config.task_record.over_vocabulary:
        classes = teacher.classes if isinstance(teacher, Stored) else teacher.config.vocab_size
        vocabulary = real_vocabulary(config, facts, student.config.vocab_size, classes)
    projections: dict[str, Any] = {}
    method_state = None
    if isinstance(teacher, Stored):
        speaker = targets.stored(teacher, vocabulary=vocabulary)
    else:
        projections = make_projections(config, student, teacher, 0, example_of(facts))
        method_state = make_method_state(config, student, teacher)
        speaker = live(
            teacher,
            storage=config.teacher.storage,
            on_host=config.parallel.teacher_memory == "host",
            vocabulary=vocabulary,
        )
    writes = None
    if config.on_policy is not None:
        tokens = tokens_among(student.config.vocab_size, facts.vocabulary)
        writes = {"eos_id": facts.ends, "pad_id": facts.pad_id, "vocabulary": tokens}
    return Setup(config, train, student, speaker, total_steps, projections, method_state, writes)


def teacher_kind(config: Config) -> Kind:
    """Return how the teacher takes part: in every step, once before the first, or from a cache.

    Raises:
      ConfigError: its outputs are to be kept in memory, and cannot be.
    """
    if config.cache is not None or config.teacher.cache is not None:
        return "cache"
    return kind_of_model(config)


def kind_of_model(config: Config) -> Literal["live", "memory"]:
    """Return how a teacher takes part that no cache stands for.

    Raises:
      ConfigError: its outputs are to be kept in memory, and cannot be.
    """
    if config.teacher.function is not None:
        return "memory"
    wanted, reason = config.teacher.precompute, targets.obstacle(config)
    if reason is None and config.task_record.over_vocabulary:
        reason = "a language model says too much to be kept in memory (a cache is for that)"
    if wanted is False:
        return "live"
    if wanted and reason is not None:
        raise ConfigError(
            f"teacher.precompute: got true, but {reason}; use teacher.precompute=false"
        )
    return "memory" if reason is None else "live"


def stored_shapes(config: Config, teacher: Model | None, facts: Facts) -> Stored:
    """Return what is known of a teacher's stored outputs before any is made.

    Args:
      config: of a run whose teacher does not run in every step.
      teacher: its parameters may be shapes; None of a function.
      facts: what the data or the config say.
    """
    if teacher is None:
        if facts.outputs is None:
            raise ConfigError(
                "data.labels: got nothing, expected the labels, since no model's head says how "
                "many classes teacher.function speaks of"
            )
        return Stored(codecs.Full(), facts.outputs)
    codec = codecs.Full() if teacher_kind(config) == "memory" else choose_codec(config)
    if isinstance(codec, codecs.Hidden):
        outputs = jax.eval_shape(
            lambda params: teacher.apply(params, {"input_ids": jax.numpy.zeros((1, 4), int)}),
            teacher.params,
        )
        return Stored(codec, teacher.config.hidden_size, outputs.head())
    assert teacher.options is not None  # of a spec or a folder
    if teacher.options.head == "lm":
        return Stored(codec, teacher.config.vocab_size)
    return Stored(codec, teacher.options.num_labels)


def real_vocabulary(config: Config, facts: Facts, ours: int, theirs: int) -> int | None:
    """Return the number of real classes where models pad their heads differently, else None."""
    if ours == theirs:
        return None
    fewest, real = min(ours, theirs), facts.vocabulary
    trained = isinstance(config.data.tokenizer, TokenizerConfig)
    if trained and real is not None and real > fewest:
        raise ConfigError(
            f"data.tokenizer.vocabulary: got {real}, expected at most {fewest}, the smaller of "
            "both models' vocabularies"
        )
    return fewest if real is None else min(real, fewest)
