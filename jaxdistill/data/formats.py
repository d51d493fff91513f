"""Files to tables: TSV, CSV, JSON lines, Parquet, Arrow, NPZ and `label text` lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.data.table import Table
from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")

SUFFIXES = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "label_text",
    ".npz": "npz",
}
NPZ_PARTS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "test"),
    "test": ("test",),
}


def format_of(path: Path) -> str:
    """Name a file's format from its ending, `.gz` put aside.

    Raises:
      DataError: the ending says nothing.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        raise DataError(
            f"data.format: cannot be told from {path.name!r}, expected one of the endings "
            f"{sorted(SUFFIXES)}; set data.format"
        )
    return SUFFIXES[suffix.lower()]


def read_file(path: Path, kind: str, *, part: str = "train") -> Table:
    """Read one file of a known format into a table.

    Args:
      path: the file; unpacked first where it ends in `.gz`.
      kind: a value of `SUFFIXES`.
      part: `train`, `validation` or `test`: which arrays of an NPZ file to take.

    Raises:
      DataError: missing, unreadable, malformed or empty.
    """
    content = _content(path)
    table = _READERS[kind](content, str(path)) if kind != "npz" else _npz(content, str(path), part)
    if not len(table):
        raise DataError(f"{path}: got no rows, expected at least one; is it the right file?")
    return table


def has_part(path: Path, part: str) -> bool:
    """Say whether an NPZ file holds arrays of its own for `part` (`x_test`, …)."""
    try:
        with np.load(io.BytesIO(_content(path)), allow_pickle=False) as arrays:
            return any(f"x_{name}" in arrays.files for name in NPZ_PARTS[part])
    except (ValueError, OSError, zipfile.BadZipFile):
        return False


def _content(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f"{path}: no such file; give a path that exists{_siblings(path)}")
    if path.is_dir():
        raise DataError(
            f"{path}: got a folder, expected a file; for a folder of images set data.format=images"
        )
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; is the file whole?") from None


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} is not there either)"
    files = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return f" (its folder holds {', '.join(files[:8])})" if files else " (its folder is empty)"


def _text(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _log.warning("%s: not UTF-8 at byte %d, read as latin-1", source, error.start)
        return content.decode("latin-1")


def _lines(content: bytes, source: str) -> list[tuple[int, str]]:
    # Not str.splitlines: it also breaks on characters that may stand inside a sentence.
    lines = _text(content, source).split("\n")
    return [
        (number, line.removesuffix("\r"))
        for number, line in enumerate(lines, start=1)
        if line and not line.isspace()
    ]


def _numbers(lines: list[tuple[int, str]]) -> np.ndarray:
    return np.array([number for number, _ in lines], np.int64)


def _columns(header: Sequence[str], rows: list[list[str]], lines: list[int], source: str) -> Table:
    header = [name.strip() for name in header]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{source}: got the column {repeated[0]!r} twice, expected each name once")
    for cells, line in zip(rows, lines, strict=True):
        if len(cells) != len(header):
            raise DataError(
                f"{source} line {line}: got {len(cells)} cells, expected {len(header)} as in the "
                f"header {header}"
            )
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    values = {name: list(column) for name, column in zip(header, columns, strict=True)}
    return Table(values, source, np.array(lines, np.int64), "line")


def _tsv(content: bytes, source: str) -> Table:
    """Tab-separated cells with a header, in which a quote is a character like any other."""
    lines = _lines(content, source)
    if not lines:
        return Table({}, source)
    rows = [line.split("\t") for _, line in lines]
    return _columns(rows[0], rows[1:], [number for number, _ in lines[1:]], source)


def _csv(content: bytes, source: str) -> Table:
    """Comma-separated cells with a header and quoted cells, which may span lines."""
    reader = csv.reader(io.StringIO(_text(content, source), newline=""), strict=True)
    rows, lines, line = [], [], 1
    try:
        for cells in reader:
            if cells:
                rows.append(cells)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source} line {line}: not valid CSV: {error}") from None
    return _columns(rows[0], rows[1:], lines[1:], source) if rows else Table({}, source)


def _jsonl(content: bytes, source: str) -> Table:
    """One JSON object per line, or one list of objects; a key that a row lacks is None there."""
    rows: list[dict[str, Any]] = []
    lines = _lines(content, source)
    if lines and lines[0][1].lstrip().startswith("["):
        return _json_list(content, source)
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{source} line {number}: not valid JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{source} line {number}: got {type(row).__name__}, expected a JSON object per line"
            )
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(columns, source, _numbers(lines), "line")


def _json_list(content: bytes, source: str) -> Table:
    try:
        rows = json.loads(_text(content, source))
    except json.JSONDecodeError as error:
        raise DataError(f"{source} line {error.lineno}: not valid JSON: {error.msg}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{source}: got a list of other things, expected a list of JSON objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in names}, source)


def _label_text(content: bytes, source: str) -> Table:
    """Lines of a label, a space and the text; no header."""
    lines = _lines(content, source)
    parts = [line.split(" ", 1) for _, line in lines]
    for (number, line), cells in zip(lines, parts, strict=True):
        if len(cells) != 2:
            raise DataError(f"{source} line {number}: got {line[:40]!r}, expected 'label text'")
    columns = {"label": [label for label, _ in parts], "text": [text for _, text in parts]}
    return Table(columns if parts else {}, source, _numbers(lines), "line")


def _plain(content: bytes, source: str) -> Table:
    """A whole file of plain text, which is one document."""
    return Table({"text": [_text(content, source)]}, source, unit="document")


def _parquet(content: bytes, source: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return arrow_table(pyarrow.parquet.read_table(pyarrow.BufferReader(content)), source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{source}: not a Parquet file: {_first_line(error)}") from None


def _arrow(content: bytes, source: str) -> Table:
    import pyarrow.ipc

    buffer = pyarrow.BufferReader(content)
    try:
        if content.startswith(b"ARROW1"):
            return arrow_table(pyarrow.ipc.open_file(buffer).read_all(), source)
        return arrow_table(pyarrow.ipc.open_stream(buffer).read_all(), source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{source}: not an Arrow file: {_first_line(error)}") from None


def arrow_table(table: Any, source: str) -> Table:
    """Turn a `pyarrow.Table` into ours, with the label names `datasets` left in its schema."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(
        columns if table.num_rows else {}, source, names=_class_names(table.schema.metadata)
    )


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for name, feature in features.items():
        if isinstance(feature, dict):
            inner = feature.get("feature", feature)
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                found[name] = tuple(inner["names"])
    return found


def _npz(content: bytes, source: str, part: str) -> Table:
    """Arrays `x_train` and `y_train` (or `x_test`, …), else `x` and `y`."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = list(arrays.files)
            endings = [f"_{name}" for name in NPZ_PARTS[part]] + [""]
            pairs = [end for end in endings if f"x{end}" in names and f"y{end}" in names]
            if not pairs:
                wanted = [f"x{end} and y{end}" for end in (endings[0], "")]
                raise DataError(f"{source}: got the arrays {names}, expected {' or '.join(wanted)}")
            inputs, labels = arrays[f"x{pairs[0]}"], arrays[f"y{pairs[0]}"]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{source}: not a NPZ file of plain arrays: {_first_line(error)}") from None
    if inputs.ndim == 0 or len(inputs) != len(labels):
        raise DataError(
            f"{source}: got x of shape {inputs.shape} and y of shape {labels.shape}, expected as "
            "many rows in both"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    kind = "features" if inputs.ndim == 2 else "image"
    return Table({kind: inputs, "label": labels}, source)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS: dict[str, Callable[[bytes, str], Table]] = {
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "label_text": _label_text,
    "text": _plain,
    "parquet": _parquet,
    "arrow": _arrow,
}
