"""What a stage is made of, decided once from shapes, for all that run, time, plan or check it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxdistill.config.schema import Config, TokenizerConfig, TrainConfig
from jaxdistill.distill.codec import choose_codec
from jaxdistill.distill.facts import Facts, example_of, tokens_among
from jaxdistill.distill.models import with_state
from jaxdistill.distill.projections import make_projections
from jaxdistill.errors import ConfigError
from jaxdistill.models.frozen import called_from_host, keep_frozen
from jaxdistill.models.registry import Model
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.targets import Stored

Kind = Literal["live", "memory", "cache"]


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What stands for the teacher in a step.

    Attributes:
      apply: the function of a live model, or the one that reads stored outputs from the batch.
      params: its parameters, or their shapes.
      axes: their logical axes; None where they have no names.
      codec: how outputs are stored; None for a live model.
      vocabulary: the real number of classes, where heads are padded differently.
      projections: kernels between widths by term, or their shapes.
      config: of a live model, for what has to divide over a mesh.
    """

    apply: Callable[..., Any]
    params: Any
    axes: Any = None
    codec: codecs.Codec | None = None
    vocabulary: int | None = None
    projections: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: Any = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one stage trains, and from what.

    Attributes:
      config: of the run.
      train: the settings of the stage.
      student: as it is laid out for training; its parameters may be shapes.
      teaching: None for a fine-tune or a baseline.
      total_steps: updates of the stage, for its schedules.
      writes: tokens of `make_continue` where the student writes a share of the batches, else None.
    """

    config: Config
    train: TrainConfig
    student: Model
    teaching: Teaching | None
    total_steps: int
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
    if isinstance(teacher, Stored):
        teaching = Teaching(
            targets.make_apply(teacher.codec),
            {} if teacher.head is None else teacher.head,
            targets.head_axes(teacher.head),
            codec=teacher.codec,
            vocabulary=vocabulary,
        )
    else:
        teaching = _live(config, facts, student, teacher, vocabulary)
    writes = None
    if config.on_policy is not None:
        tokens = tokens_among(student.config.vocab_size, facts.vocabulary)
        writes = {"eos_id": facts.ends, "pad_id": facts.pad_id, "vocabulary": tokens}
    return Setup(config, train, student, teaching, total_steps, writes)


def teacher_kind(config: Config) -> Kind:
    """Return how the teacher takes part: in every step, once before the first, or from a cache.

    Raises:
      ConfigError: its outputs are to be kept in memory, and cannot be.
    """
    if config.cache is not None or config.teacher.cache is not None:
        return "cache"
    return kind_of_model(config)


def kind_of_model(config: Config) -> Literal["live", "memory"]:
    """Return how a model takes part that no cache stands for.

    Raises:
      ConfigError: its outputs are to be kept in memory, and cannot be.
    """
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


def stored_shapes(config: Config, teacher: Model) -> Stored:
    """Return what is known of a teacher's stored outputs before any is made.

    Args:
      config: of a run whose teacher does not run in every step.
      teacher: its parameters may be shapes.
    """
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


def _live(
    config: Config, facts: Facts, student: Model, teacher: Model, vocabulary: int | None
) -> Teaching:
    """Let a model teach, its parameters kept as the configuration says."""
    projections = make_projections(config, student, teacher, 0, example_of(facts))
    sizes = teacher.config
    with in_host_memory():
        teacher = keep_frozen(teacher, config.teacher.storage)
    apply, params = with_state(teacher)
    if config.parallel.teacher_memory == "host":
        apply = called_from_host(apply)
    axes = teacher.axes
    if teacher.model_state is not None and axes is not None:
        unnamed = jax.tree.map(lambda leaf: (None,) * len(leaf.shape), teacher.model_state)
        axes = {"params": axes, "model_state": unnamed}
    return Teaching(
        apply, params, axes, vocabulary=vocabulary, projections=projections, config=sizes
    )


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
