"""By what a cache knows its teacher, its tokenizer and its examples again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdistill.data.split import Split
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.errors import CacheError
from jaxdistill.files.hashing import hash_each, hash_json
from jaxdistill.files.model_folder import INDEX, WEIGHTS, read_json
from jaxdistill.files.sentence_folder import sentence_folder
from jaxdistill.files.tensor_files import map_tensors
from jaxdistill.teachers.cache.manifest import hash_tree


def example_keys(split: Split) -> np.ndarray:
    """Return the number of every example in a cache, int64 `[N]`: 63 bits of a hash of its input.

    It does not depend on the order of the examples, on which others there are, or on labels, so
    shuffling, packing, buckets, epochs and subsets find the teacher's outputs. Equal inputs share
    a number.
    """
    pieces = split.inputs.example_bytes()
    return (hash_each(pieces) >> np.uint64(1)).astype(np.int64)


def teacher_hash(origin: str | Path | Mapping[str, object], seed: int) -> str | None:
    """Return a hash of a teacher's parameters, None where its folder holds no weights.

    The tensors of a folder are hashed by name as they are read from disk, one at a time: in one
    file or in many they give the same. A teacher drawn from a spec is known by that and the seed.
    """
    if isinstance(origin, Mapping):
        return hash_json([origin, seed])
    sentence = sentence_folder(Path(origin))
    folder = Path(origin) if sentence is None else sentence.encoder
    if (folder / WEIGHTS).is_file():
        files = {WEIGHTS}
    elif (folder / INDEX).is_file():
        files = set(read_json(folder / INDEX).get("weight_map", {}).values())
    else:
        return None
    if not all((folder / file).is_file() for file in files):
        return None
    tensors: dict[str, np.ndarray] = {}
    try:
        for file in files:
            tensors |= map_tensors(folder / file)
        for place in () if sentence is None else sentence.dense:
            if (place / WEIGHTS).is_file():
                found = map_tensors(place / WEIGHTS)
                tensors |= {f"{place.name}/{name}": tensor for name, tensor in found.items()}
    except CacheError:
        return None  # Loading the model says what is wrong with the file.
    return hash_tree(tensors)


def tokenizer_hash(folder: Path) -> str:
    """Return a hash of a tokenizer's vocabulary: its tokens and their ids."""
    vocabulary = sorted(load_tokenizer(folder).get_vocab().items())
    return hash_json(vocabulary)
