"""Folders of images, one per label: what is read, what is left out, and what is refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxdistill.data.reading.table import Remark, Table
from jaxdistill.errors import DataError

SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".gif", ".webp",
        ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif",
    }
)  # fmt: skip
SPLITS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
)
# What systems and editors leave behind: previews and copies, no examples.
_LITTER = ("@eaDir", "__MACOSX", "__pycache__", "$RECYCLE.BIN", "lost+found", "Thumbs.db")
_SHOWN = 5


def read_image_folder(path: Path, part: str) -> Table:
    """Files in `folder/<label>/` or deeper, read later; labels are the names of the folders.

    Hidden files and folders and files of other endings are left out and counted in a remark.

    Args:
      part: the split, for messages; a class without images is refused in `train`.

    Raises:
      DataError: no such folder, no images, a class whose files are none, or splits as classes.
    """
    if not path.is_dir():
        raise DataError(f"data.{part}: got {str(path)!r}, expected a folder of folders of images")
    left: Counter[str] = Counter()
    entries = sorted(path.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not _hidden(entry.name)]
    for entry in entries:
        if entry.is_dir() and _hidden(entry.name):
            left[f"in the hidden folder {entry.name}"] += sum(1 for _ in _walk(entry))
    beside = [entry for entry in entries if entry.is_file() and not _hidden(entry.name)]
    images: dict[str, list[Path]] = {}
    bare: dict[str, Counter[str]] = {}
    for folder in folders:
        others: Counter[str] = Counter()
        images[folder.name] = []
        for file in _walk(folder):
            inside = [name for name in file.relative_to(path).parts if _hidden(name)]
            if inside:
                folder_name = inside[0] != file.name
                left[f"in the hidden folder {inside[0]}" if folder_name else "hidden"] += 1
            elif file.suffix.lower() in SUFFIXES:
                images[folder.name].append(file)
            else:
                others[_ending(file)] += 1
        left += Counter({f"with the ending {end}": n for end, n in others.items()})
        if not images[folder.name]:
            bare[folder.name] = others
    _refuse_splits(path, part, images)
    if not any(images.values()):
        raise DataError(_nothing(path, part, beside, left))
    _refuse_bare(path, part, bare)
    left += Counter({"beside the folders of the classes": len(beside)} if beside else {})
    pairs = [(file, label) for label, files in images.items() for file in files]
    columns = {"image": [file for file, _ in pairs], "label": [label for _, label in pairs]}
    return Table(columns, str(path), remarks=_remarks(path, left, bare))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and all below it, in order, links followed but no circle."""
    seen: set[str] = set()
    for place, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        for name in sorted(files):
            yield Path(place) / name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _ending(file: Path) -> str:
    return file.suffix.lower() or "(none)"


def _refuse_splits(path: Path, part: str, images: dict[str, list[Path]]) -> None:
    named = [name for name in images if name.casefold() in SPLITS]
    deeper = any(len(file.relative_to(path).parts) > 2 for name in named for file in images[name])
    if named and len(named) == len(images) and deeper:
        first = next((name for name in named if name.casefold().startswith("train")), named[0])
        raise DataError(
            f"data.{part}: {path} holds the splits {named}, expected one folder per label; set "
            f"data.train={path / first} and the others as data.validation and data.test"
        )


def _refuse_bare(path: Path, part: str, bare: dict[str, Counter[str]]) -> None:
    for name, others in bare.items():
        if part != "train" and not others:
            continue
        found = ", ".join(f"{n:,} {end}" for end, n in others.most_common(_SHOWN)) or "no files"
        raise DataError(
            f"data.{part}: the class {name!r} of {path} has no images (it holds {found}), expected "
            f"files with the endings {' '.join(sorted(SUFFIXES))}; convert them, or remove the "
            "folder"
        )


def _nothing(path: Path, part: str, beside: list[Path], left: Counter[str]) -> str:
    expected = f"expected {path.name}/<label>/*{{{','.join(sorted(SUFFIXES))}}}"
    lists = [file for file in beside if file.suffix.lower() in (".csv", ".jsonl", ".parquet")]
    pictures = [file for file in beside if file.suffix.lower() in SUFFIXES]
    message = f"data.{part}: got no images in folders of {path}, {expected}"
    if lists and pictures:
        message += f"; for a list of files and labels set data.{part}={lists[0]} and data.image"
    elif pictures:
        message += f"; {len(pictures):,} images lie beside, move them into a folder per label"
    elif left:
        message += f"; left out: {_counted(left)}"
    return message


def _remarks(path: Path, left: Counter[str], bare: dict[str, Counter[str]]) -> tuple[Remark, ...]:
    found = []
    if left:
        message = f"{sum(left.values()):,} files of {path} are not read: {_counted(left)}"
        found.append(Remark("image files", message))
    if bare:
        message = (
            f"{len(bare):,} classes of {path} have no images: {', '.join(list(bare)[:_SHOWN])}"
        )
        found.append(Remark("image files", message))
    return tuple(found)


def _counted(left: Counter[str]) -> str:
    shown = [f"{n:,} {what}" for what, n in left.most_common(_SHOWN)]
    return ", ".join(shown + (["others"] if len(left) > _SHOWN else []))
