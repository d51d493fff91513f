"""What a stage is made of, decided once from shapes, for all that run, time, plan or check it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxdistill.config.schema import Config, TokenizerConfig, TrainConfig
from jaxdistill.config.training import ParallelConfig
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.step import TrainStep
from jaxdistill.errors import ConfigError
from jaxdistill.models.outputs import Head
from jaxdistill.models.registry import Model
from jaxdistill.setup.codec import choose_codec
from jaxdistill.setup.facts import Facts, example_of, tokens_among
from jaxdistill.setup.objective import distillation_objective, supervised_objective
from jaxdistill.setup.projections import make_method_state, make_projections
from jaxdistill.setup.student_texts import writing_step
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.live import live
from jaxdistill.teachers.targets import Stored
from jaxdistill.teachers.teacher import Teacher
from jaxdistill.types import Tree

Kind = Literal["live", "memory", "cache"]
_STEPS = 1000
"""Updates of a stage whose number the data decide: schedules need one, shapes and memory do not."""


def _no_projections(student: Model, seed: int) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one stage trains, and from what: all that its program is assembled from.

    Attributes:
      train: Settings of the stage.
      parallel: Layout over devices.
      side: Name of the model that is trained, for messages.
      student: Model that is trained, laid out for training; its parameters may be shapes.
      teacher: Teacher of the stage; None for a fine-tune or a baseline.
      objective: `(mesh=) -> Objective`, for the devices that share a batch under `jit`, or None.
      total_steps: Updates of the stage, for its schedules.
      projections: Maps that are trained beside the student, by term; their shapes are what counts.
      make_projections: `(student, seed) -> maps`, as a seed draws them.
      method_state: Values that terms carry from step to step, by term, before the first; or None.
      writes: `(step) -> step` in which the student writes a share of the batches, or None.
    """

    train: TrainConfig
    parallel: ParallelConfig
    side: Literal["student", "teacher"]
    student: Model
    teacher: Teacher | None
    objective: Callable[..., Objective]
    total_steps: int
    projections: dict[str, Any] = dataclasses.field(default_factory=dict)
    make_projections: Callable[[Model, int], dict[str, Any]] = _no_projections
    method_state: dict[str, Any] | None = None
    writes: Callable[[TrainStep], TrainStep] | None = None


def resolve(
    config: Config,
    train: TrainConfig,
    facts: Facts,
    student: Model,
    teacher: Model | Stored | None,
    *,
    total_steps: int | None = None,
) -> Setup:
    """Decide what a stage is made of.

    Args:
      config: Configuration of the run.
      train: Settings of the stage.
      facts: Sizes that the data, or the config alone, say.
      student: Model that is trained, laid out for training; its parameters may be shapes.
      teacher: A model that runs in every step, or what is known of its stored outputs; None for a
        fine-tune or a baseline.
      total_steps: Updates of the stage; those of the settings where None.

    Raises:
      ConfigError: layers of the objective that the models do not have, or vocabularies that do not
        go together.
    """
    total_steps = total_steps or train.steps or _STEPS
    if teacher is None:
        return Setup(
            train,
            config.parallel,
            side="teacher" if train is config.finetune else "student",
            student=student,
            teacher=None,
            objective=functools.partial(supervised_objective, config),
            total_steps=total_steps,
        )
    vocabulary = None
    if config.task_record.over_vocabulary:
        classes = teacher.classes if isinstance(teacher, Stored) else _columns(teacher)
        vocabulary = real_vocabulary(config, facts, _columns(student), classes)
    draw, method_state = _no_projections, None
    if isinstance(teacher, Stored):
        speaker = targets.stored(teacher)
    else:
        draw = functools.partial(make_projections, config, teacher, example_of(facts))
        method_state = make_method_state(config, student, teacher)
        speaker = live(
            teacher,
            storage=config.teacher.storage,
            on_host=config.parallel.teacher_memory == "host",
        )
    projections = draw(student, 0)
    writes = None
    if config.on_policy is not None:
        writes = functools.partial(
            writing_step,
            wanted=config.on_policy,
            student=student,
            total_steps=total_steps,
            eos_id=facts.ends,
            pad_id=facts.pad_id,
            vocabulary=tokens_among(_columns(student), facts.vocabulary),
        )
    return Setup(
        train,
        config.parallel,
        side="student",
        student=student,
        teacher=speaker,
        objective=functools.partial(
            distillation_objective,
            config,
            total_steps,
            set(projections),
            speaker.codec,
            vocabulary=vocabulary,
        ),
        total_steps=total_steps,
        projections=projections,
        make_projections=draw,
        method_state=method_state,
        writes=writes,
    )


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
      config: Configuration of a run in which the teacher does not run in every step.
      teacher: Model that was asked; its parameters may be shapes; None where it is a function.
      facts: Sizes that the data, or the config alone, say.
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

        def hidden(params: Tree) -> tuple[jax.Array, Head]:
            outputs = teacher.apply(params, {"input_ids": jax.numpy.zeros((1, 4), int)})
            assert outputs.hidden is not None  # what the codec keeps
            return outputs.hidden, targets.token_head(outputs.head(), facts.vocabulary)

        states, head = jax.eval_shape(hidden, teacher.params)
        return Stored(codec, states.shape[-1], head)
    assert teacher.options is not None  # of a spec or a folder
    if teacher.options.head == "lm":
        return Stored(codec, _columns(teacher))
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


def _columns(model: Model) -> int:
    """Return the number of columns of a language model's head."""
    columns = model.sizes.vocabulary
    assert columns is not None  # a language model has a table of tokens
    return columns
