"""Fields of a model's mapping that the data fill in, by kind of input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdistill.config.schema import Config
from jaxdistill.models.positions import FIELDS as POSITIONS
from jaxdistill.models.positions import table_size
from jaxdistill.setup.facts import Facts
from jaxdistill.types import Json

Origin = Mapping[str, Any]


def types_of_config(config: Config) -> dict[str, int]:
    """Return how many types of token there are: two for a pair of texts."""
    return {} if config.data.text_pair is None else {"token_types": 2}


def rows_of_config(config: Config) -> dict[str, int]:
    """Return the length of rows of documents."""
    return {"length": config.data.max_length}


def of_texts(config: Config, facts: Facts, origin: Origin) -> Json:
    """Return the vocabulary, the padding token, and what tables need for rows of `max_length`."""
    if facts.vocabulary is None:
        return {}
    found: Json = {"vocab_size": facts.vocabulary}
    found["pad_token_id"] = origin.get("pad_token_id", facts.pad_id)
    rows = config.data.max_length
    found["max_position_embeddings"] = table_size(origin["family"], rows, found)
    types = facts.sizes.get("token_types", 1)
    return found | ({"type_vocab_size": types} if types > 1 else {})


def of_documents(config: Config, facts: Facts, origin: Origin) -> Json:
    """Return the vocabulary and the positions of a row."""
    vocabulary = {} if facts.vocabulary is None else {"vocab_size": facts.vocabulary}
    return vocabulary | dict.fromkeys(POSITIONS, facts.sizes["length"])


def of_images(config: Config, facts: Facts, origin: Origin) -> Json:
    """Return the size and the channels of an image, and how many numbers these are."""
    if not facts.sizes:
        return {}
    height, width, channels = (facts.sizes[name] for name in ("height", "width", "channels"))
    pixels = height * width * channels
    return {"image_size": height, "num_channels": channels, "num_features": pixels}


def of_features(config: Config, facts: Facts, origin: Origin) -> Json:
    """Return how many numbers an example has."""
    return {"num_features": facts.sizes["features"]} if "features" in facts.sizes else {}
