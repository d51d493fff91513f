"""Options that the rest of a configuration leaves without effect, and what they would need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxdistill.config.base import DECAYING
from jaxdistill.config.fields import ConfigFields
from jaxdistill.config.sources import FILES, sources
from jaxdistill.config.training import TrainConfig
from jaxdistill.modalities.registry import modalities, modality_named
from jaxdistill.types import Json

Path = tuple[str, ...]
_LABEL_OPTIONS = ("label", "labels")


def idle_options(config: ConfigFields) -> Iterator[tuple[Path, str]]:
    """Yield every option without effect in this configuration, and why it has none."""
    yield from _of_data(config)
    yield from _of_cache(config)
    yield from _of_models(config)
    for stage in ("finetune", "train"):
        train = getattr(config, stage)
        if train is not None:
            yield from _of_training(stage, train, config)
    of_language = {
        "losses": config.task_record.over_vocabulary,
        "generate": config.task_record.writes,
    }
    for name, acts in of_language.items():
        if not acts:
            yield (name,), f"of language models; the task is {config.task!r}"


def check_effects(config: ConfigFields) -> None:
    """Refuse options that were given and have no effect.

    Raises:
      ValueError: one line that names all of them.
    """
    faults = [
        f"{'.'.join(path)}: got a value that has no effect: it is {why}"
        for path, why in idle_options(config)
        if _given(config, path)
    ]
    if faults:
        raise ValueError("; ".join(faults))


def effective(config: ConfigFields) -> Json:
    """Return a configuration as JSON values that read back equal, without idle options."""
    values: Json = config.model_dump(mode="json")
    for path, _ in idle_options(config):
        node: Any = values
        for name in path[:-1]:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(path[-1], None)
    return values


def _given(config: Any, path: Path) -> bool:
    """Return whether an option was written down; null stands for leaving it out."""
    node = config
    for name in path:
        if isinstance(node, dict):
            if name not in node:
                return False
            node = node[name]
        elif node is None or name not in node.model_fields_set:
            return False
        else:
            node = getattr(node, name)
    return node is not None


def _of_data(config: ConfigFields) -> Iterator[tuple[Path, str]]:
    data, task = config.data, config.task_record
    embedded = data.source in sources()
    if embedded:
        for name in ("train", "validation", "test"):
            yield (
                ("data", name),
                f"of files and Hugging Face datasets, and data.source is {data.source!r}; "
                "set data.source=files to read it",
            )
    if data.source != FILES:
        yield ("data", "format"), f"of files, and data.source is {data.source!r}"
    if embedded or data.source == FILES:
        for name in ("subset", "streaming"):
            if getattr(data, name):
                yield (
                    ("data", name),
                    f"of Hugging Face datasets, and data.source is {data.source!r}",
                )
    if data.modality is not None:
        own = modality_named(data.modality).keys
        for other in modalities().values():
            for name in other.keys:
                if name not in own:
                    yield ("data", name), f"of {other.plural}; data.modality is {data.modality!r}"
    if task.documents:
        for name in (*modality_named("image").keys, *_LABEL_OPTIONS):
            yield ("data", name), "not of language models, which learn from text alone"
        yield ("data", "modality"), "not of language models, which learn from documents"
        for name in ("layout", "buckets"):
            yield (
                ("data", name),
                "not of language models, whose rows of data.max_length tokens are packed full",
            )
    else:
        for name in ("messages", "streaming"):
            if getattr(data, name):
                yield ("data", name), f"of language models; the task is {config.task!r}"
        if not task.named_outputs:
            yield ("data", "labels"), f"of classes; the task is {config.task!r}"


def _of_cache(config: ConfigFields) -> Iterator[tuple[Path, str]]:
    if config.cache is None:
        return
    codec = config.cache.codec or config.default_codec
    codecs = {
        "k": ("topk",),
        "samples": ("sampled",),
        "seed": ("sampled",),
        "dtype": ("full", "hidden"),
    }
    for name, known in codecs.items():
        if codec not in known:
            yield ("cache", name), f"of the codec {' or '.join(known)}, and the codec is {codec!r}"


def _of_models(config: ConfigFields) -> Iterator[tuple[Path, str]]:
    student = config.student
    if not student.sizes:
        yield (
            ("student", "calibration_batches"),
            "for a student narrower than its teacher (hidden_size, heads, mlp_size)",
        )
    if not student.from_teacher:
        yield (
            ("student", "initialize_from"),
            "for a student made of its teacher (student.layers), and student.model is given",
        )
    if config.teacher.function is not None:
        for name in ("fresh_head", "pooling", "dtype", "storage"):
            yield ("teacher", name), "of models, and teacher.function is none"
    if config.task_record.over_vocabulary:
        for side in ("teacher", "student"):
            yield (side, "pooling"), f"of models that classify; the task is {config.task!r}"


def _of_training(
    stage: str, train: TrainConfig, config: ConfigFields
) -> Iterator[tuple[Path, str]]:
    if train.optimizer not in DECAYING:
        why = f"none of the optimizer {train.optimizer!r}; of {', '.join(DECAYING)}"
        # Asking for none of it is what happens.
        if train.weight_decay:
            yield (stage, "weight_decay"), why
        yield (stage, "no_decay"), why
    if config.task_record.over_vocabulary and train.used_vocabulary:
        yield (
            (stage, "used_vocabulary"),
            "not of language models: every token may be the next one",
        )
