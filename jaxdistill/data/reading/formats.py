"""Files to tables: TSV, CSV, JSON lines, Parquet, Arrow, NPZ and `label text` lines."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.data.reading.delimited import read_csv, read_tsv
from jaxdistill.data.reading.json_rows import read_json
from jaxdistill.data.reading.raw import COMPRESSED, read_content, read_text
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

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


# An archive names how it is packed and by whom it may be read, which is what a RuntimeError is.
_NO_NPZ = (
    ValueError, OSError, EOFError, AttributeError, RuntimeError, OverflowError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
WITH_HEADER = ("tsv", "csv")
"""Formats whose first row names the columns."""


def suffix_of(path: Path) -> str:
    """Return a file's ending in lower case, that of its compression put aside."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


def format_of(path: Path) -> str:
    """Name a file's format from its ending, that of its compression put aside.

    Raises:
      DataError: the ending says nothing.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f"data.format: cannot be told from {path.name!r}, expected one of the endings "
            f"{sorted(SUFFIXES)}; set data.format"
        )
    return SUFFIXES[suffix]


def read_file(
    path: Path,
    kind: str,
    *,
    part: str = "train",
    names: Sequence[str] | None = None,
    encoding: str | None = None,
) -> Table:
    """Read one file of a known format into a table.

    Args:
      path: the file; unpacked first where its ending says that it is compressed.
      kind: a value of `SUFFIXES`.
      part: `train`, `validation` or `test`: which arrays of an NPZ file to take.
      names: names of the columns, for a file without a header.
      encoding: encoding of the text; found out where None.

    Raises:
      DataError: missing, unreadable, malformed or empty.
    """
    try:
        table = _read(path, kind, part, names, encoding)
    except RecursionError:
        raise DataError(
            f"{path}: holds lists or objects inside of too many others, expected plain values"
        ) from None
    except MemoryError as error:
        reason = _first_line(error)
        raise DataError(
            f"{path}: needs more memory than there is ({reason}); if it is not that large it is "
            "damaged: copy or write it again"
        ) from None
    if not len(table):
        raise DataError(f"{path}: got no rows, expected at least one; is it the right file?")
    return table


def _read(
    path: Path, kind: str, part: str, names: Sequence[str] | None, encoding: str | None
) -> Table:
    content, source = read_content(path), str(path)
    if names is not None and kind not in WITH_HEADER:
        raise DataError(
            f"data.columns: {path} is read as {kind}, which names its columns itself, expected one "
            f"of {list(WITH_HEADER)}; drop data.columns"
        )
    if kind == "npz":
        return _npz(content, source, part)
    if kind in ("parquet", "arrow"):
        return _parquet(content, source) if kind == "parquet" else _arrow(content, source)
    return _from_text(read_text(content, source, encoding), source, kind, names)


def has_part(path: Path, part: str) -> bool:
    """Return whether an NPZ file holds separate arrays for `part` (`x_test`, …)."""
    try:
        with np.load(io.BytesIO(read_content(path)), allow_pickle=False) as arrays:
            return any(f"x_{name}" in arrays.files for name in NPZ_PARTS[part])
    except DataError:
        raise
    except _NO_NPZ:
        return False


def _from_text(text: str, source: str, kind: str, names: Sequence[str] | None) -> Table:
    if kind == "tsv":
        return read_tsv(text, source, names)
    if kind == "csv":
        return read_csv(text, source, names)
    if kind == "jsonl":
        return read_json(text, source)
    if kind == "label_text":
        return _label_text(text, source)
    return Table({"text": [text]}, source, unit="document")


def _label_text(text: str, source: str) -> Table:
    """Lines of a label, a space and the text; no header."""
    lines = [
        (number, line.removesuffix("\r"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line and not line.isspace()
    ]
    parts = [line.split(" ", 1) for _, line in lines]
    for (number, line), cells in zip(lines, parts, strict=True):
        if len(cells) != 2:
            raise DataError(f"{source} line {number}: got {line[:40]!r}, expected 'label text'")
    columns = {"label": [label for label, _ in parts], "text": [text for _, text in parts]}
    numbers = np.array([number for number, _ in lines], np.int64)
    return Table(columns if parts else {}, source, numbers, "line")


def _parquet(content: bytes, source: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return arrow_table(pyarrow.parquet.read_table(pyarrow.BufferReader(content)), source)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not a Parquet file: {_first_line(error)}") from None


def _arrow(content: bytes, source: str) -> Table:
    import pyarrow.ipc

    buffer = pyarrow.BufferReader(content)
    try:
        if content.startswith(b"ARROW1"):
            table = pyarrow.ipc.open_file(buffer).read_all()
        else:
            table = pyarrow.ipc.open_stream(buffer).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not an Arrow file: {_first_line(error)}") from None
    return arrow_table(validated(table, source), source)


def validated(table: Any, source: str) -> Any:
    """Return a `pyarrow.Table` of an Arrow file whose buffers hold all that it points to.

    Offsets of a damaged file point beyond them, and reading there ends the process.

    Raises:
      DataError: they do.
    """
    import pyarrow

    try:
        table.validate(full=True)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{source}: a damaged Arrow file: {_first_line(error)}; copy or write it again"
        ) from None
    return table


def arrow_table(table: Any, source: str) -> Table:
    """Turn a `pyarrow.Table` into ours, with the label names `datasets` left in its schema.

    Raises:
      DataError: a column holds what is no value.
    """
    import pyarrow

    columns = {}
    for name in table.column_names:
        # The index of a pandas table is no column of the data.
        if re.fullmatch(r"__index_level_\d+__", name):
            continue
        try:
            columns[name] = table.column(name).to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source}: column {name!r} is not text in UTF-8 ({error.reason} at byte "
                f"{error.start}); write it anew"
            ) from None
        except (ValueError, TypeError, ArithmeticError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{source}: column {name!r} of {table.column(name).type} holds what Python has no "
                f"value for: {_first_line(error)}; write it as another type"
            ) from None
    return Table(
        columns if table.num_rows else {}, source, names=_class_names(table.schema.metadata)
    )


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        if isinstance(feature, dict):
            inner = feature.get("feature", feature)
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                names = inner.get("names")
                # Others than `datasets` write this, too; without names the ids stand.
                if isinstance(names, list) and all(isinstance(one, str) for one in names):
                    found[name] = tuple(names)
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
    except _NO_NPZ as error:
        raise DataError(f"{source}: not a NPZ file of plain arrays: {_first_line(error)}") from None
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
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
