"""What decides the shapes of a run beside its config: as the data say, or before there are any."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from jaxdistill.config.schema import Config, TokenizerConfig
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.text.ends import ends_of
from jaxdistill.distill.preprocessing import channels_of
from jaxdistill.doctor.checks_models import described

log = logging.getLogger("jaxdistill")

_EMBEDDED_LABELS = {"digits": 10}
_EMBEDDED_IMAGES = {"digits": (8, 8, 1)}


@dataclasses.dataclass(frozen=True)
class Facts:
    """Sizes that models and batches take from the data.

    Attributes:
      labels: names of the outputs in the order of their ids, or None.
      outputs: number of outputs of a classifier; None where each model's own config says it.
      vocabulary: tokens of the tokenizer, or None where none is known.
      pad_id: the token that pads.
      ends: tokens that end a text; None where the tokenizer is not there to say.
      row: tokens of the longest row.
      token_types: kinds of token in a row, such as two for pairs of texts.
      image: height, width and channels, or None.
      features: numbers of an example, or None.
    """

    labels: tuple[str, ...] | None = None
    outputs: int | None = None
    vocabulary: int | None = None
    pad_id: int = 0
    ends: tuple[int, ...] | None = None
    row: int = 0
    token_types: int = 1
    image: tuple[int, int, int] | None = None
    features: int | None = None


def facts_of(config: Config, dataset: Dataset) -> Facts:
    """Return what the data of a run say."""
    split = dataset.train
    types, images, features = split.token_types, split.images, split.features
    task = config.task_record
    return Facts(
        labels=dataset.labels,
        outputs=dataset.num_labels,
        vocabulary=dataset.vocabulary,
        pad_id=split.pad_id,
        ends=ends_of(config, dataset) if task.writes and config.on_policy is not None else None,
        row=split.labels.shape[1] if task.documents else config.data.max_length,
        token_types=1 if types is None else 1 + int(types.max(initial=0)),
        image=None if images is None else (images.shape[1], images.shape[2], images.shape[3]),
        features=None if features is None else features.shape[1],
    )


def facts_without_data(config: Config) -> Facts:
    """Return what a config alone says; what it leaves to the data is taken as usual, and told."""
    tokenizer = config.data.tokenizer
    vocabulary = tokenizer.vocabulary if isinstance(tokenizer, TokenizerConfig) else None
    return Facts(
        labels=config.data.labels,
        outputs=_outputs(config),
        vocabulary=vocabulary,
        row=config.data.max_length,
        token_types=1 if config.data.text_pair is None else 2,
        image=_image(config),
    )


def _outputs(config: Config) -> int | None:
    """Return the number of outputs that all models have; None where a folder says its own."""
    if config.task_record.outputs == "values":
        return 1
    if config.data.labels is not None:
        return len(config.data.labels)
    if config.task_record.over_vocabulary or config.data.source in _EMBEDDED_LABELS:
        return _EMBEDDED_LABELS.get(config.data.source)
    origins = [config.teacher.model, config.student.model]
    if not any(isinstance(origin, Mapping) for origin in origins):
        return None
    # A mapping has as many outputs as the folder beside it.
    found = [described(config, side) for side in ("teacher", "student")]
    counts = [one.outputs for one in found if one is not None and one.outputs is not None]
    if not counts:
        log.warning("plan: data.labels is not given; two labels are taken")
    return counts[0] if counts else 2


def _image(config: Config) -> tuple[int, int, int] | None:
    """Return height, width and channels, or None where the models say them or there are none."""
    embedded, size = _EMBEDDED_IMAGES.get(config.data.source), config.data.image_size
    if size is None:
        return embedded
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, channels_of(config) or (3 if embedded is None else embedded[2])


def tokens_among(columns: int, vocabulary: int | None) -> int | None:
    """Return how many columns of a head are tokens of a vocabulary; None where all are."""
    return None if vocabulary is None or vocabulary >= columns else vocabulary
