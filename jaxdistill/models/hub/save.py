"""Models to a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import (
    GENERATION,
    SHARD_BYTES,
    write_folder,
)
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.assembly import abstract
from jaxdistill.models.family import (
    Model,
    pools,
)
from jaxdistill.models.hub.convert import (
    PROCESSORS,
    companions,
    export_config,
    export_tensors,
)
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.hub.sentence import ENCODER, lay_out
from jaxdistill.models.hub.tokenizer_files import tokenizer_texts
from jaxdistill.models.registered import family_named
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")


def save_model(
    folder: str | Path,
    model: Model,
    *,
    tokenizer_from: str | Path | None = None,
    max_length: int | None = None,
    processor: Json | None = None,
    generation: Json | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model as a Hugging Face folder that `transformers` loads as it is.

    An encoder that is pooled as no model of `transformers` is becomes a sentence-transformers
    folder: `SentenceTransformer(folder).encode(texts)` gives its logits, or without a head its
    pooled vectors.

    Args:
      tokenizer_from: folder whose tokenizer and processor files are copied; None: the folder the
        model was loaded from.
      max_length: the longest row that an encoder was trained on, where its tokenizer is to cut;
        None: where that did before, at most the model's positions.
      processor: `preprocessor_config.json` of the images that the model was trained on, in place
        of a copied one.
      generation: what its `generation_config.json` says, such as the tokens that end a text; None:
        what that of the same folder says, where the model writes text and there is one.
      shard_bytes: size above which the weights are split over files.

    Raises:
      ModelError: a model of no family, parameters that do not fit it, or a folder that cannot be
        written.
    """
    if model.family is None or model.options is None:
        raise ModelError("model: got one of no family, expected one of load_model or build_model")
    family = family_named(model.family)
    source = Path(tokenizer_from) if tokenizer_from else model.source
    files = companions(source)
    if processor is not None:
        files = [file for file in files if file.name not in PROCESSORS]
    writes = model.options.head == "lm"
    if writes and generation is None and source is not None:
        files += [path for path in (source / GENERATION,) if path.is_file()]
    tokenized = modality_named(family.modality).tokenized
    if not files and tokenized:
        log.warning("%s: saved without a tokenizer; none was found in %s", folder, source)
    plain = family.standard(model.config, model.options)
    if plain is not None and pools(model.options):
        options = dataclasses.replace(model.options, pooling="default")
        model = dataclasses.replace(model, config=plain, options=options)
    assert model.options is not None
    _, shapes, statistics, _ = abstract(family, model.config, model.options)
    wanted = flatten({"params": shapes, "model_state": statistics})
    tensors = export_tensors(family, model, wanted)
    config = export_config(family, model)
    texts = tokenizer_texts(source, family, model, max_length=max_length)
    for name, content in ((PROCESSORS[0], processor), (GENERATION, generation if writes else None)):
        if content is not None:
            texts = {**texts, name: json.dumps(content, indent=2, sort_keys=True) + "\n"}
    place: dict[str, Any] = {"texts": texts, "shard_bytes": shard_bytes}
    if plain is None and tokenized:
        log.info("%s: written for sentence-transformers", folder)
        config["architectures"] = [family.architectures[None]]
        tensors, beside = lay_out(family, model, tensors, max_length or model.sizes.positions)
        place |= {"inside": ENCODER, "beside": beside}
    elif plain is None:
        log.warning("%s: transformers has no pooling=%r here", folder, model.options.pooling)
    write_folder(Path(folder), config, tensors, files, **place)
