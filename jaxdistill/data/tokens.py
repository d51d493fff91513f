"""Texts to tokens, once: the result is kept in a file named by everything it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")
_VERSION = 1
_CHUNK = 4096
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "config.json",
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

    digest = hashlib.sha256()
    libraries = [version("tokenizers"), version("transformers")]
    digest.update(json.dumps([_VERSION, max_length, pairs is not None, libraries]).encode())
    templates = sorted(folder.glob("additional_chat_templates/*.jinja"))
    for name in (*_TOKENIZER_FILES, *(path.relative_to(folder).as_posix() for path in templates)):
        if (folder / name).is_file():
            digest.update(f"\0{name}\0".encode())
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    for column in (texts, pairs or ()):
        digest.update(f"\0{len(column)}\0".encode())
        digest.update(framed(column))
    return digest.hexdigest()[:32]


def framed(texts: Iterable[str]) -> bytes:
    """Join texts so that no two lists give the same bytes."""
    return b"".join(b"%d:%s" % (len(raw), raw) for raw in (text.encode() for text in texts))


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model's folder; no code from the folder is run.

    Raises:
      DataError: there is none, or it has no padding token.
    """
    if not folder.is_dir():
        raise DataError(f"tokenizer: no such folder {folder}; give a Hugging Face model folder")
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"tokenizer: none can be loaded from {folder}: {reason}; the folder needs "
            "tokenizer.json (or its vocabulary files) beside the model"
        ) from None
    return tokenizer


def _tokenize(
    texts: Sequence[str], pairs: Sequence[str] | None, *, folder: Path, max_length: int
) -> Tokens:
    _check_positions(folder, max_length)
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


def _check_positions(folder: Path, max_length: int) -> None:
    """Refuse rows longer than the model has positions: indexing past them would go unnoticed."""
    try:
        fields = json.loads((folder / "config.json").read_text())
        limit = fields.get("max_position_embeddings", fields.get("n_positions"))
    except (OSError, ValueError):
        return
    if isinstance(limit, int) and max_length > limit:
        raise DataError(
            f"data.max_length: got {max_length}, expected at most {limit}, the positions of the "
            f"model in {folder}"
        )


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
    """Write arrays aside and rename the file: a reader sees a whole file or none."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(dict(arrays)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
