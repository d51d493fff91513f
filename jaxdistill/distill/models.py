"""From a configuration to its data and its models."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from pathlib import Path
from typing import Any

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.dataset import Dataset, prepare
from jaxdistill.data.text.tokenize import has_tokenizer
from jaxdistill.distill import language
from jaxdistill.distill.preprocessing import channels_of, preprocessing_of
from jaxdistill.doctor import checks_models
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.files.sentence_folder import encoder_folder
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.abstract import abstract_model, without_weights
from jaxdistill.models.assembly import assemble
from jaxdistill.models.hub.described import described
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.positions import row_limit
from jaxdistill.models.registry import Model, build_model, family_named, load_model
from jaxdistill.models.shrink.importance import measure_importance
from jaxdistill.models.shrink.layers import student_from_teacher
from jaxdistill.models.shrink.shapes import student_of_teacher
from jaxdistill.models.shrink.width import narrow_student
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.setup.facts import Facts, facts_of
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


def tokenizer_folder(config: Config) -> Path | None:
    """Return the folder whose tokenizer reads the text: the teacher's, else the student's."""
    folders = [_folder(config.teacher.model), _folder(config.student.model)]
    found = [folder for folder in folders if folder is not None]
    return next((folder for folder in found if has_tokenizer(folder)), next(iter(found), None))


def load_data(config: Config, cache: Path) -> Dataset:
    """Read, tokenize and split the data of a run; label ids follow the teacher's names.

    Raises:
      ConfigError: the models do not go together, or not with the task or the data.
      DataError: see `prepare`.
      ModelError: a folder that holds no whole model.
    """
    checks_models.refuse_unfit(config)
    limits = row_limits(config)
    if config.task_record.documents:
        return language.load_data(config, tokenizer_folder(config), limits, cache)
    preprocessing, remarks = preprocessing_of(config)
    teacher = described(config, "teacher")
    dataset = prepare(
        config.data,
        task=config.task,
        tokenizer_folder=tokenizer_folder(config),
        labels=checks_models.named_head(config),
        num_labels=None,
        outputs=None if teacher is None else teacher.outputs,
        readers=checks_models.readers(config),
        row_limits=limits,
        cache_dir=cache,
        preprocessing=preprocessing,
        channels=channels_of(config),
        remarks=remarks,
    )
    checks_models.refuse_unfit_heads(config, dataset)
    measured = measured_label(config, dataset)
    if measured:
        log.info("%s is %s (data.positive)", config.ranking_metric, measured["metric_of"])
    return dataset


def measured_label(config: Config, dataset: Dataset) -> Json:
    """Say what an F1 is of, for a run's result: `positive`, an id or None, and `metric_of`."""
    if config.ranking_metric != "f1":
        return {}
    if dataset.positive is not None:
        name = str(dataset.positive) if dataset.labels is None else dataset.labels[dataset.positive]
        return {"positive": dataset.positive, "metric_of": f"that of the label {name!r}"}
    kind = "classes that occur" if config.task_record.outputs == "classes" else "labels"
    return {"positive": None, "metric_of": f"the mean over the {kind}"}


def row_limits(config: Config) -> dict[str, int]:
    """Return how many tokens a row of each model may have, as far as is known before it is made."""
    found = {}
    for who in ("teacher", "student"):
        origin = getattr(config, who).model
        fields: Any = origin
        if isinstance(origin, str):
            try:
                path = encoder_folder(Path(origin)) / "config.json"
                fields = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue  # Loading the model says what is wrong with its config.
        if isinstance(fields, dict):
            limit = row_limit(fields.get("family", fields.get("model_type")), fields)
            found |= {} if limit is None else {who: limit}
    return found


def load_teacher(config: Config, dataset: Dataset, *, training: bool, seed: int) -> Model:
    """Load or create the teacher as it is before its fine-tune."""
    train = (config.finetune if training else None) or TrainConfig(dtype=config.teacher.dtype)
    fresh, pooling = config.teacher.fresh_head, config.teacher.pooling
    return _model(config, pooling, config.teacher.model, train, dataset, seed, fresh=fresh)


def load_finetuned(folder: Path, config: Config, dataset: Dataset) -> Model:
    """Load a model that an earlier stage left, pooled as it was.

    Raises:
      ModelError: a part of it is not there.
    """
    train = TrainConfig(dtype=config.teacher.dtype)
    model = _model(config, "default", str(folder), train, dataset, 0)
    if model.initialized:
        raise ModelError(
            f"{folder}: holds no {', '.join(model.initialized)}, expected the whole model that "
            "was trained; remove that stage's folder and run again"
        )
    return model


def make_student(config: Config, dataset: Dataset, finetuned: Path | None, seed: int) -> Model:
    """Create the student that both arms of the comparison start from, for one seed."""
    student = config.student
    fresh = student.fresh_head
    if not student.from_teacher:
        origin = student.model
        return _model(config, student.pooling, origin, config.train, dataset, seed, fresh=fresh)
    origin: Any = config.teacher.model
    if student.initialize_from == "finetuned" and finetuned is not None:
        origin = str(finetuned)
    elif not isinstance(origin, str):
        raise ConfigError(
            "student.initialize_from: got 'pretrained', but teacher.model is trained from scratch; "
            "use student.initialize_from=finetuned, or give student.model instead of student.layers"
        )
    if origin == config.teacher.model:
        fresh = fresh or config.teacher.fresh_head
    teacher = _model(config, student.pooling, origin, config.train, dataset, seed, fresh=fresh)
    if student.sizes:
        # The same for every seed, as the layers are.
        source = train_batches(
            dataset.train,
            batch_size=config.train.batch_size,
            seed=config.data.split_seed,
            config=config.data,
        )
        batches = itertools.islice(source, student.calibration_batches)
        mesh = mesh_of(config.parallel.sizes)
        importance = measure_importance(teacher, batches, mesh=mesh)
        with in_host_memory():
            teacher = narrow_student(teacher, importance, **student.sizes)
    if student.layers is None:
        return teacher
    layers = student.layers if isinstance(student.layers, int) else list(student.layers)
    with in_host_memory():
        return student_from_teacher(teacher, layers, seed=seed)


def _folder(model: str | Json | None) -> Path | None:
    return Path(model) if isinstance(model, str) else None


@in_host_memory()
def _model(
    config: Config,
    pooling: str,
    origin: str | Json | None,
    train: TrainConfig,
    dataset: Dataset,
    seed: int,
    *,
    fresh: bool = False,
) -> Model:
    facts = facts_of(config, dataset)
    options: dict[str, Any] = {**_options(config, train), "seed": seed}
    task = config.task_record
    if not task.over_vocabulary:
        options["problem_type"] = task.problem_type
        named = facts.labels is not None
        options |= {"labels": facts.labels} if named else {"num_labels": facts.outputs}
    if isinstance(origin, str):
        own = None if pooling == "default" else pooling
        model = load_model(origin, pooling=own, fresh_head=fresh, **options)
        return with_dropout(model, train.dropout)
    model = build_model(_filled(config, origin, facts), pooling=pooling, **options)
    if task.over_vocabulary:
        model = language.with_tokenizer(model, dataset)
    return with_dropout(model, train.dropout)


def teacher_shapes(config: Config, facts: Facts, train: TrainConfig | None = None) -> Model:
    """Return the configured teacher without weights.

    Args:
      config: settings of the run.
      facts: what is known of the data.
      train: settings of the teacher's fine-tune; None: the model as it teaches.
    """
    train = train or TrainConfig(dtype=config.teacher.dtype)
    return _shapes(config, "teacher", config.teacher.model, train, facts)


def student_shapes(config: Config, facts: Facts) -> Model:
    """Return the configured student without weights, also one that starts from the teacher."""
    student = config.student
    if not student.from_teacher:
        return _shapes(config, "student", student.model, config.train, facts)
    teacher = _shapes(config, "student", config.teacher.model, config.train, facts)
    return student_of_teacher(student, teacher)


def _shapes(config: Config, side: str, origin: Any, train: TrainConfig, facts: Facts) -> Model:
    options = _options(config, train) | {"pooling": getattr(config, side).pooling}
    if not config.task_record.over_vocabulary:
        options["num_labels"] = facts.outputs
    if not isinstance(origin, str):
        origin = _filled(config, origin, facts)
        if config.task_record.over_vocabulary and "vocab_size" not in origin:
            log.warning(
                "plan: %s.model has no vocab_size and no tokenizer says it; its family's default "
                "is taken",
                side,
            )
    model = abstract_model(origin, **options)
    if train.dropout is None:
        return model
    return without_weights(lambda whole: with_dropout(whole, train.dropout), model)


def _options(config: Config, train: TrainConfig) -> dict[str, Any]:
    """Return how a model of this run is built, whatever it is built from."""
    options: dict[str, Any] = {
        "dtype": train.dtype,
        "remat": train.remat,
        "attention": config.parallel.attention,
    }
    options["head"] = config.task_record.head
    if config.task_record.over_vocabulary:
        options["logits"] = config.losses == "dense"
    return options


def _filled(config: Config, origin: Any, facts: Facts) -> Json:
    """Fill in the sizes of a model that its mapping leaves to the data.

    Raises:
      ModelError: no mapping, or one without a family.
    """
    if origin is None or "family" not in origin:
        raise ModelError(
            f"model: got {origin!r}, expected a folder or a mapping with 'family', "
            "e.g. {family: cnn, hidden_sizes: [32, 64]}"
        )
    family = family_named(origin["family"])
    filled = modality_named(facts.modality or family.modality).model_sizes
    sizes = {} if filled is None else function_of(filled)(config, facts, origin)
    known = {field.name for field in dataclasses.fields(family.config)}
    given = {family.field_aliases.get(name, name) for name in origin}
    return {**{name: size for name, size in sizes.items() if name in known - given}, **origin}


def with_dropout(model: Model, rate: float | None) -> Model:
    """Set every dropout rate of a model's config."""
    if rate is None or model.family is None or model.options is None:
        return model
    names = [
        field.name
        for field in dataclasses.fields(model.config)
        if ("dropout" in field.name or "pdrop" in field.name)
        and isinstance(getattr(model.config, field.name), float)
    ]
    config = dataclasses.replace(model.config, **dict.fromkeys(names, rate))
    leaves = flatten({"params": model.params, "model_state": model.model_state})
    return assemble(
        family_named(model.family),
        config,
        model.options,
        leaves,
        labels=model.labels,
        source=model.source,
        initialized=model.initialized,
    )
