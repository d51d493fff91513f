"""Checks of settings that will change nothing, or that a run is too short for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from jaxdistill.config.base import ScheduleConfig
from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.stage import count_steps
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.modalities.registry import modalities, modality_named
from jaxdistill.types import Json


def objective(examined: Examined) -> Check:
    """Check that something is learned of the teacher, and by losses of the task's kind."""
    config = examined.config
    acting = {name: term for name, term in config.terms.items() if term.acts}
    taught = [name for name, term in acting.items() if term.method.reads != "labels"]
    warnings = []
    if not taught:
        warnings.append(
            "no term with a weight above 0 reads the teacher, so that both students are trained "
            "alike and differ by chance; give such a term a weight"
        )
    for name, term in acting.items():
        if config.task_record.outputs == "decisions" and term.method.compares_classes:
            warnings.append(
                f"{name}: {term.loss} compares which label is likelier than another, but several "
                "may hold at once; bernoulli_kl compares each by itself"
            )
    for message in warnings:
        yield Finding("warning", "objective", message)
    if not warnings:
        listed = ", ".join(f"{name} ({term.loss})" for name, term in acting.items())
        yield Finding("ok", "objective", listed)


def options(examined: Examined) -> Check:
    """Find settings that these data and models leave without effect."""
    messages = list(_idle(examined))
    for message in messages:
        yield Finding("warning", "options", message)
    if not messages:
        yield Finding("ok", "options", "every setting has an effect")


def _idle(examined: Examined) -> Iterator[str]:
    config, modality = examined.config, examined.dataset.modality
    own = modality_named(modality).keys
    others = dict.fromkeys(key for other in modalities().values() for key in other.keys)
    for name in others:
        if name not in own and _changed(config.data, name):
            yield f"data.{name} has no part in {modality} data; drop it"
    if config.data.validation is not None and _changed(config.data, "validation_fraction"):
        yield "data.validation_fraction holds nothing out, since data.validation is given; drop it"
    cached = config.cache is not None or config.teacher.cache is not None
    if cached and config.teacher.storage != "dtype":
        yield "teacher.storage keeps a live teacher small, but a cache stands for it; drop it"
    if config.finetune is None and config.student.initialize_from == "finetuned":
        yield (
            "student.initialize_from: finetune is null, so that the layers come from the teacher "
            "as it is, as with 'pretrained'"
        )
    for stage, side, train in _stages(config):
        model = examined.models.get(side)
        if train.dropout and model is not None and not _has_dropout(model.config):
            yield (
                f"{stage}.dropout: got {train.dropout:g}, but the {side} ({model.family}) has no "
                "dropout; drop it"
            )


def lengths(examined: Examined) -> Check:
    """Check schedules and warm-ups, where given in steps, against the steps there are."""
    config, warned = examined.config, False
    for stage, _, train in _stages(config):
        wanted = dict(_in_steps(config, stage, train))
        if not wanted:
            continue
        steps = count_steps(config, train, examined.dataset)
        for name, length in wanted.items():
            if length > steps:
                warned = True
                yield Finding(
                    "warning",
                    "schedules",
                    f"{name} takes {length:,g} steps and {stage} has {steps:,}: it is cut off; "
                    "make it shorter, give it as a share of the run, or train longer",
                )
        if train.early_stopping is not None and train.evaluate_every is not None:
            evaluations = math.ceil(steps / train.evaluate_every)
            if train.early_stopping >= evaluations:
                warned = True
                yield Finding(
                    "warning",
                    "schedules",
                    f"{stage}.early_stopping waits for {train.early_stopping} evaluations without "
                    f"a gain and there are {evaluations}: it never stops; evaluate more often",
                )
    if not warned:
        yield Finding("ok", "schedules", "schedules and warm-ups fit into the run")


def _stages(config: Config) -> Iterator[tuple[str, str, TrainConfig]]:
    if config.finetune is not None:
        yield "finetune", "teacher", config.finetune
    yield "train", "student", config.train


def _in_steps(config: Config, stage: str, train: TrainConfig) -> Iterator[tuple[str, float]]:
    """Yield what is given in steps, and how many."""
    if train.warmup >= 1:
        yield f"{stage}.warmup", train.warmup
    if train.early_stopping is not None and train.evaluate_every is not None:
        yield f"{stage}.evaluate_every", train.evaluate_every
    if stage != "train":
        return
    values: Json = {
        f"objective.{name}.{option}": value
        for name, term in config.terms.items()
        for option, value in {"weight": term.weight, **term.options}.items()
    }
    if config.on_policy is not None:
        values["on_policy.share"] = config.on_policy.share
    for name, value in values.items():
        if isinstance(value, ScheduleConfig) and value.over > 1 and value.shape != "constant":
            yield name, value.over


def _changed(section: BaseModel, name: str) -> bool:
    field = type(section).model_fields[name]
    return name in section.model_fields_set and getattr(section, name) != field.default


def _has_dropout(config: Any) -> bool:
    names = [field.name for field in dataclasses.fields(config)]
    return any("dropout" in name or "pdrop" in name for name in names)
