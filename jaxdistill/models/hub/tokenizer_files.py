"""A tokenizer's files as they go into a model's folder: they say what the model was trained on."""

from __future__ import annotations

import json
from pathlib import Path

from jaxdistill.files.model_folder import read_json
from jaxdistill.files.sentence_folder import encoder_folder, sentence_folder
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.family import Family, Model
from jaxdistill.types import Json

CONFIG, WHOLE = "tokenizer_config.json", "tokenizer.json"


def tokenizer_texts(
    source: Path | None, family: Family, model: Model, *, max_length: int | None
) -> dict[str, str]:
    """Return the contents of the tokenizer files that cannot be copied as they are, by name.

    An encoder's tokenizer cuts rows where training cut them, pads on the side that its positions
    are counted from, and returns the inputs that the model takes. No tokenizer lets rows be longer
    than the model has positions. What a sentence-transformers folder does to texts before the
    tokenizer sees them becomes a part of the tokenizer.

    Args:
      source: the folder the tokenizer comes from.
      max_length: the longest row of an encoder in training; None: as long as the tokenizer says.
    """
    if source is None or not modality_named(family.modality).tokenized:
        return {}
    home = encoder_folder(source)
    config = read_json(home / CONFIG) if (home / CONFIG).is_file() else {}
    if not config and max_length is None:
        return {}
    texts, changed = _lower_cased(source, config)
    limits = [n for n in (max_length, _own_limit(config), model.sizes.positions) if n is not None]
    if max_length is not None or (limits and min(limits) != _own_limit(config)):
        changed["model_max_length"] = max_length or min(limits)
    if _is_encoder(model):
        inputs = ["input_ids", "attention_mask"]
        if (model.sizes.token_types or 0) > 1:
            inputs.insert(1, "token_type_ids")
        changed["model_input_names"] = inputs
        if config.get("padding_side", "right") != "right":
            changed["padding_side"] = "right"
    if {**config, **changed} != config:
        texts[CONFIG] = json.dumps({**config, **changed}, indent=2, ensure_ascii=False) + "\n"
    return texts


def _is_encoder(model: Model) -> bool:
    return model.options is not None and model.options.head != "lm"


def _own_limit(config: Json) -> int | None:
    limit = config.get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and limit < 1e9 else None


def _lower_cased(source: Path, config: Json) -> tuple[dict[str, str], Json]:
    """Return the tokenizer with its folder's lower-casing in it, and what its config then says."""
    found = sentence_folder(source)
    if found is None or not found.lower_case:
        return {}, {}
    from jaxdistill.data.text.tokenize import load_tokenizer

    tokenizer = load_tokenizer(source)
    # This class takes the file as it is; others build their own steps from the settings.
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return {WHOLE: tokenizer.backend_tokenizer.to_str()}, {**special, **names}
