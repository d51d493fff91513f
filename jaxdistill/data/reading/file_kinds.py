"""What a file is by its name: of which kind, of which split, or about the data and none of it."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable
from pathlib import Path

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.formats import SUFFIXES, suffix_of
from jaxdistill.errors import DataError

PARTS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
_KEYWORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(?![a-z])")
_ABOUT = frozenset(
    {
        "readme",
        "license",
        "licence",
        "source",
        "citation",
        "notice",
        "changelog",
        "copying",
        "dataset_infos",
        "dataset_info",
        "dataset_dict",
        "croissant",
        "_success",
        "_metadata",
        "_common_metadata",
    }
)
_ABOUT_ENDINGS = frozenset({".lock", ".crc"})


def walk(folder: Path) -> list[Path]:
    """List all files below a folder but hidden ones and those that Python compiled."""
    return sorted(
        file
        for file in folder.rglob("*")
        if all(part[0] != "." and part != "__pycache__" for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def is_image(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def is_about(path: Path, folder: Path) -> bool:
    """Say whether a file tells of the data instead of being some; so does a loading script."""
    if path.suffix == ".py":
        return path.parent == folder and path.stem == folder.resolve().name
    return path.stem.lower() in _ABOUT or path.suffix.lower() in _ABOUT_ENDINGS


def split_of(path: Path) -> str | None:
    """Return the split that a file's name says, or the name of the nearest folder."""
    for name in reversed(path.parts):
        found = _KEYWORD.findall(name.lower())
        if found:
            return SPLIT_NAMES[found[0]]
    return None


def by_kind(files: Iterable[Path], config: DataConfig, documents: bool) -> dict[str, list[Path]]:
    """Group files by their format; for documents, what is no table is text."""
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(_kind(file, config, documents), []).append(file)
    return kinds


def _kind(path: Path, config: DataConfig, documents: bool) -> str:
    if config.format != "auto":
        return config.format
    kind = SUFFIXES.get(suffix_of(path))
    if documents:
        return "text" if kind in (None, "label_text", "npz") else kind
    return "other" if kind is None else kind


def mixed(source: str, kinds: dict[str, list[Path]], part: str) -> DataError:
    counts = [f"{len(files):,} {kind} ({files[0].name})" for kind, files in sorted(kinds.items())]
    (first, *_) = max(kinds.values(), key=len)
    return DataError(
        f"data.{part}: got files of several formats in {source}: {', '.join(counts)}, expected "
        f"one; name those to read by a pattern, such as data.{part}="
        f"'{first.parent}/*{first.suffix}', or set data.format (text makes a document of every "
        "file)"
    )
