"""What decides the shapes of a run beside its config: as the data say, or before there are any."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config, TokenizerConfig
from jaxdistill.config.sources import sources
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.inputs.shapes import example_batch, sizes_of
from jaxdistill.data.text.ends import ends_of
from jaxdistill.modalities.registry import modality_named, recognizable
from jaxdistill.models.hub.described import described

log = logging.getLogger("jaxdistill")

_TOKENS = 4


@dataclasses.dataclass(frozen=True)
class Facts:
    """Sizes that models and batches take from the data.

    Attributes:
      labels: names of the outputs in the order of their ids, or None.
      outputs: number of outputs of a classifier; None where each model's own config says it.
      vocabulary: tokens of the tokenizer, or None where none is known.
      pad_id: the token that pads.
      ends: tokens that end a text; None where the tokenizer is not there to say.
      modality: kind of input, or None where neither data nor config say it.
      sizes: sizes of an example by name, such as `height` of an image, as far as they are known.
    """

    labels: tuple[str, ...] | None = None
    outputs: int | None = None
    vocabulary: int | None = None
    pad_id: int = 0
    ends: tuple[int, ...] | None = None
    modality: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def facts_of(config: Config, dataset: Dataset) -> Facts:
    """Return what the data of a run say."""
    inputs, task = dataset.train.inputs, config.task_record
    return Facts(
        labels=dataset.labels,
        outputs=dataset.num_labels,
        vocabulary=dataset.vocabulary,
        pad_id=inputs.pad_id,
        ends=ends_of(config, dataset) if task.writes and config.on_policy is not None else None,
        modality=dataset.modality,
        sizes=sizes_of(modality_named(dataset.modality), inputs),
    )


def example_of(facts: Facts) -> dict[str, np.ndarray] | None:
    """Return a batch of one example, texts of a few tokens; None where not all sizes are known."""
    if facts.modality is None:
        return None
    modality, sizes = modality_named(facts.modality), {**facts.sizes, "length": _TOKENS}
    known = all(axis in sizes for field in modality.fields.values() for axis in field.axes)
    return example_batch(modality, 1, sizes) if known else None


def facts_without_data(config: Config) -> Facts:
    """Return what a config alone says; what it leaves to the data is taken as usual, and told."""
    tokenizer = config.data.tokenizer
    vocabulary = tokenizer.vocabulary if isinstance(tokenizer, TokenizerConfig) else None
    modality, sizes = _inputs(config)
    return Facts(
        labels=config.data.labels,
        outputs=_outputs(config),
        vocabulary=vocabulary,
        modality=modality,
        sizes=sizes,
    )


def _inputs(config: Config) -> tuple[str | None, Mapping[str, int]]:
    """Return the kind of input that a config names, or the first that it says the sizes of."""
    source = sources().get(config.data.source)
    told, known = (None, {}) if source is None else (source.modality, source.sizes)
    named = "documents" if config.task_record.documents else config.data.modality or told
    kinds = recognizable() if named is None else [modality_named(named)]
    for kind in kinds:
        found = kind.sizes_of_config
        sizes = dict(known) if kind.name == told else {}
        sizes |= {} if found is None else function_of(found)(config)
        if sizes or named is not None:
            return kind.name, sizes
    return None, {}


def _outputs(config: Config) -> int | None:
    """Return the number of outputs that all models have; None where a folder says its own."""
    if config.task_record.outputs == "values":
        return 1
    if config.data.labels is not None:
        return len(config.data.labels)
    if config.task_record.over_vocabulary:
        return None
    source = sources().get(config.data.source)
    if source is not None and source.labels is not None:
        return len(source.labels)
    origins = [config.teacher.model, config.student.model]
    if not any(isinstance(origin, Mapping) for origin in origins):
        return None
    # A mapping has as many outputs as the folder beside it.
    found = [described(config, side) for side in ("teacher", "student")]
    counts = [one.outputs for one in found if one is not None and one.outputs is not None]
    if not counts:
        log.warning("plan: data.labels is not given; two labels are taken")
    return counts[0] if counts else 2


def tokens_among(columns: int, vocabulary: int | None) -> int | None:
    """Return how many columns of a head are tokens of a vocabulary; None where all are."""
    return None if vocabulary is None or vocabulary >= columns else vocabulary
