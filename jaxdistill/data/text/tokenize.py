"""Texts to tokens, once: the result is kept in a file named by everything it depends on."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.errors import DataError
from jaxdistill.files import hashing
from jaxdistill.files.safetensors_stream import write_file
from jaxdistill.files.sentence_folder import encoder_folder, sentence_folder

_log = logging.getLogger("jaxdistill")
_VERSION = 1
_CHUNK = 4096
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "sentence_bert_config.json",
)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Ragged rows of tokens: row `i` is `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
      ids: int32 [total].
      types: token type of each token, uint8 [total].
      offsets: int64 [N + 1].
      pad_id: the tokenizer's padding token.
      cut: rows that were longer than the limit.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray
    pad_id: int
    cut: int


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    folder: Path,
    max_length: int,
    cache_dir: Path | None,
) -> Tokens:
    """Tokenize texts, or pairs of texts, with special tokens, cut to `max_length`.

    With `cache_dir` the result is read from there when the texts, the tokenizer's files, the limit
    and the library are the same, and written there otherwise.

    Raises:
      DataError: no usable tokenizer in `folder`.
    """
    key = cache_key(texts, pairs, folder=folder, max_length=max_length)
    path = None if cache_dir is None else cache_dir / f"tokens-{key}.safetensors"
    if path is not None:
        cached = _load(path)
        if cached is not None:
            return cached
    tokens = _tokenize(texts, pairs, folder=folder, max_length=max_length)
    if path is not None:
        _save(path, tokens)
    return tokens


def cache_key(
    texts: Sequence[str], pairs: Sequence[str] | None, *, folder: Path, max_length: int
) -> str:
    """Hash everything the tokens depend on; the same in every process."""
    from importlib.metadata import version

    digest = hashing.start()
    libraries = [version("tokenizers"), version("transformers")]
    digest.update(json.dumps([_VERSION, max_length, pairs is not None, libraries]).encode())
    home = encoder_folder(folder)
    templates = sorted(home.glob("additional_chat_templates/*.jinja"))
    for name in (*_TOKENIZER_FILES, *(path.relative_to(home).as_posix() for path in templates)):
        if (home / name).is_file():
            digest.update(f"\0{name}\0".encode())
            digest.update(bytes.fromhex(hashing.hash_file(home / name)))
    for column in (texts, pairs or ()):
        digest.update(f"\0{len(column)}\0".encode())
        digest.update(framed(column))
    return digest.hexdigest()[:32]


def framed(texts: Iterable[str]) -> bytes:
    """Join texts so that no two lists give the same bytes."""
    return b"".join(b"%d:%s" % (len(raw), raw) for raw in (text.encode() for text in texts))


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model's folder; no code from the folder is run.

    That of a sentence-transformers folder lower-cases where the folder does so before.

    Raises:
      DataError: there is none, or it has no padding token.
    """
    if not folder.is_dir():
        raise DataError(f"tokenizer: no such folder {folder}; give a Hugging Face model folder")
    found = sentence_folder(folder)
    home = folder if found is None else found.encoder
    if not has_tokenizer(folder):
        # The library would make one of the special tokens only, to which every word is unknown.
        raise DataError(_no_tokenizer(folder, f"it holds none of {', '.join(VOCABULARIES)}"))
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(home), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(_no_tokenizer(folder, reason)) from None
    if found is not None and found.lower_case:
        _lower_case(tokenizer, folder)
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> str:
    return (
        f"tokenizer: none can be loaded from {folder}: {reason}; the folder needs tokenizer.json "
        "(or its vocabulary files) beside the model"
    )


def _lower_case(tokenizer: Any, folder: Path) -> None:
    """Let a tokenizer lower-case texts before anything else, as sentence-transformers does."""
    if not tokenizer.is_fast:
        raise DataError(
            f"{folder}: its settings lower-case texts (do_lower_case), which its slow tokenizer "
            "cannot be made to do; it needs a tokenizer.json"
        )
    from tokenizers import normalizers

    whole = tokenizer.backend_tokenizer
    first = [normalizers.Lowercase()]
    before = [] if whole.normalizer is None else [whole.normalizer]
    whole.normalizer = normalizers.Sequence(first + before)


def _tokenize(
    texts: Sequence[str], pairs: Sequence[str] | None, *, folder: Path, max_length: int
) -> Tokens:
    tokenizer = load_tokenizer(folder)
    overhead = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if max_length <= overhead:
        raise DataError(
            f"data.max_length: got {max_length}, expected more than the tokenizer's {overhead} "
            "special tokens per row"
        )
    ids, types, lengths, cut = [], [], [], 0
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        second = None if pairs is None else list(pairs[start : start + _CHUNK])
        encoded = tokenizer(
            chunk,
            second,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
            return_length=False,
        )
        rows = encoded["input_ids"]
        lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        total = int(lengths[-1].sum())
        ids.append(np.fromiter((i for row in rows for i in row), np.int32, total))
        types.append(
            np.fromiter((t for row in encoded["token_type_ids"] for t in row), np.uint8, total)
        )
        cut += _count_cut(tokenizer, encoded, chunk, second, max_length)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
    pad = padding_id(tokenizer, folder)
    return Tokens(np.concatenate(ids), np.concatenate(types), offsets, pad, cut)


def padding_id(tokenizer: Any, folder: Path) -> int:
    """Return the token that rows are padded with."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    pad = int(tokenizer.eos_token_id or 0)
    _log.warning("%s: the tokenizer has no padding token, rows are padded with id %d", folder, pad)
    return pad


def _count_cut(
    tokenizer: Any, encoded: Any, texts: list[str], pairs: list[str] | None, max_length: int
) -> int:
    if encoded.is_fast:
        return sum(bool(row.overflowing) for row in encoded.encodings)
    full = tokenizer(texts, pairs, truncation=False, padding=False)["input_ids"]
    return sum(len(row) > max_length for row in full)


def check_row_limits(length: int, limits: Mapping[str, int]) -> None:
    """Refuse rows longer than a model has positions for: indexing past them would go unnoticed.

    Args:
      length: tokens in the longest row.
      limits: the longest row of each model, by who it is.

    Raises:
      DataError: with the length that all of them have positions for.
    """
    short = {who: limit for who, limit in limits.items() if limit < length}
    if short:
        who = min(short, key=lambda name: short[name])
        raise DataError(
            f"data.max_length: got rows of {length} tokens, expected at most {short[who]}, the "
            f"positions of the {who}; set data.max_length={short[who]}"
        )


def has_tokenizer(folder: Path) -> bool:
    """Return whether a model's folder holds a vocabulary that a tokenizer can be made of."""
    home = encoder_folder(folder)
    return any((home / name).is_file() for name in VOCABULARIES)


def _save(path: Path, tokens: Tokens) -> None:
    arrays = {"ids": tokens.ids, "types": tokens.types, "offsets": tokens.offsets}
    save_arrays(path, {**arrays, "numbers": np.array([tokens.pad_id, tokens.cut], np.int64)})


def _load(path: Path) -> Tokens | None:
    arrays = load_arrays(path)
    if arrays is None:
        return None
    pad_id, cut = arrays["numbers"].tolist()
    return Tokens(arrays["ids"], arrays["types"], arrays["offsets"], pad_id, cut)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays in a file: a reader sees a whole one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read arrays that were kept, or None where there are none or they are damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        _log.warning("%s: damaged (%s), tokenizing again", path, error)
        return None
