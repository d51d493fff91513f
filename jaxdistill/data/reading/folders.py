"""Which files a name in the configuration means: one, a pattern, a list, or a folder of splits."""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.file_kinds import (
    PARTS,
    SPLIT_NAMES,
    by_kind,
    is_about,
    is_image,
    is_visible,
    mixed,
    split_of,
    walk,
)
from jaxdistill.data.reading.formats import SUFFIXES, format_of, suffix_of
from jaxdistill.data.reading.raw import read_content
from jaxdistill.data.reading.table import Remark, listed
from jaxdistill.errors import DataError, did_you_mean

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Found:
    """Files of one split, all read in the same way.

    Attributes:
      kind: a value of `SUFFIXES`, `text` (a document in each), `images`, `saved`, or `class_texts`
        (a text in each, in the folder of its label).
      files: what to read; for `images` and `saved` one folder.
      source: what to call them in messages.
      whole: whether `source` is the one file.
      remarks: what lies beside them unread.
    """

    kind: str
    files: tuple[Path, ...]
    source: str
    whole: bool = False
    remarks: tuple[Remark, ...] = ()


def find_parts(config: DataConfig, *, documents: bool) -> tuple[dict[str, Found], frozenset[str]]:
    """Find the files of every split, and which splits nobody named: a folder brought them.

    Args:
      documents: whether texts are learned as they are, without labels.

    Raises:
      DataError: nothing is there, formats are mixed, or a split is not among those of a folder.
    """
    assert config.train is not None  # DataConfig refuses files without `train`
    own = _look(config.train, config, "train", documents)
    parts: dict[str, Found] = {"train": _choose(own, "train", config.train)}
    brought = set()
    for part in PARTS[1:]:
        name = getattr(config, part)
        if name is None and part in own and own[part] != parts["train"]:
            parts[part] = own[part]
            brought.add(part)
        elif isinstance(name, str) and name in own and not Path(name).exists():
            parts[part] = own[name]
        elif isinstance(name, str) and len(own) > 1 and not _is_path(name):
            raise DataError(
                f"data.{part}: got {name!r}, expected a path or one of the splits {sorted(own)} of "
                f"{config.train}.{did_you_mean(name, own)}"
            )
        elif name is not None:
            parts[part] = _choose(_look(name, config, part, documents), part, name)
    if brought:
        _log.info("%s: brings the splits %s, too", config.train, listed(sorted(brought)))
    used = {found.source for found in parts.values()}
    idle = sorted(name for name, found in own.items() if found.source not in used)
    if idle:
        _log.info("%s: the splits %s are not read", config.train, listed(idle))
    return parts, frozenset(brought)


def _is_path(name: str) -> bool:
    return Path(name).exists() or glob.has_magic(name) or Path(name).name != name or "." in name


def _choose(splits: dict[str, Found], part: str, name: str | Sequence[str]) -> Found:
    if len(splits) == 1:
        return next(iter(splits.values()))
    if part not in splits:
        first = sorted(splits)[0]
        files = splits[first].files
        way = files[0] if len(files) == 1 else f"'{files[0].parent}/*{first}*'"
        raise DataError(
            f"data.{part}: {name} has the splits {sorted(splits)}, expected one of them, such as "
            f"data.{part}={way}"
        )
    return splits[part]


def _look(
    name: str | Sequence[str], config: DataConfig, part: str, documents: bool
) -> dict[str, Found]:
    """Return what a name means, by split; one file or pattern is one split, whatever its name."""
    if isinstance(name, str) and Path(name).is_dir():
        return _look_into(Path(name), config, part, documents)
    names = [name] if isinstance(name, str) else list(name)
    files = [file for one in names for file in _matches(one, part)]
    kinds = by_kind(files, config, documents)
    if len(kinds) > 1:
        raise mixed(", ".join(names), kinds, part)
    (kind,) = kinds
    if kind == "other":
        format_of(files[0])  # says what endings there are
    alone = len(files) == 1 and files[0] == Path(names[0])
    return {"train": Found(kind, tuple(files), ", ".join(names), whole=alone)}


def _matches(name: str, part: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return [file for file in walk(path) if not is_about(file, path)]
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        read_content(path)  # says what there is instead
    found = sorted(map(Path, glob.glob(name, recursive=True)))
    files = [file for match in found for file in (walk(match) if match.is_dir() else [match])]
    if not files:
        raise DataError(
            f"data.{part}: no file matches {name!r}, expected at least one; is the pattern right?"
        )
    return files


def _look_into(folder: Path, config: DataConfig, part: str, documents: bool) -> dict[str, Found]:
    if config.format in ("auto", "arrow"):
        if (folder / "dataset_dict.json").is_file():
            return _saved_splits(folder)
        if (folder / "state.json").is_file():
            return {"train": Found("saved", (folder,), str(folder))}
    files = walk(folder)
    about = [file for file in files if is_about(file, folder)]
    kinds = by_kind([file for file in files if file not in set(about)], config, documents)
    if config.format == "images" or (not documents and _holds_images(folder, kinds)):
        return _image_splits(folder)
    rest = kinds.pop("other", [])
    if documents and set(kinds) <= {"text"}:
        # A folder of texts may well hold notes on them, but no table of that kind.
        notes = [file for file in about if SUFFIXES.get(suffix_of(file)) in (None, "label_text")]
        kinds = {"text": sorted([*kinds.get("text", []), *notes])}
        about = [file for file in about if file not in notes]
    if config.format != "auto":
        given = kinds.get(config.format, [])
        wanted = [file for file in given if SUFFIXES.get(suffix_of(file)) == config.format]
        rest += [file for file in given if wanted and file not in wanted]
        kinds = {config.format: wanted or given}
    if len(kinds) > 1:
        raise mixed(str(folder), kinds, part)
    if not any(kinds.values()):
        held = listed([file.name for file in files]) or "nothing"
        raise DataError(
            f"data.{part}: got no images in {folder}, expected {folder.name}/<label>/ with images, "
            f"nor files that end in one of {sorted(SUFFIXES)}; it holds {held}"
        )
    ((kind, chosen),) = kinds.items()
    if kind == "label_text" and config.format == "auto":
        deep = _in_classes(folder, chosen)
        rest += [file for file in chosen if deep and file not in deep]
        kind, chosen = ("class_texts", deep) if deep else (kind, chosen)
        if not deep and not all(split_of(file.relative_to(folder)) for file in chosen):
            raise DataError(
                f"data.{part}: got {len(chosen):,} text files in {folder} without labels "
                f"({chosen[0].name}), expected {folder.name}/<label>/*.txt with a text in each; if "
                "each line is 'label text' set data.format=label_text"
            )
    if about:
        _log.info("%s: not read as data: %s", folder, listed([file.name for file in about]))
    return _by_split(folder, kind, chosen, rest)


def _in_classes(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files in the deepest folders, where these are named by labels, not by splits."""
    depth = max(len(file.relative_to(folder).parts) for file in files)
    deep = [file for file in files if len(file.relative_to(folder).parts) == depth]
    return deep if depth > 1 and any(split_of(Path(f.parent.name)) is None for f in deep) else []


def _by_split(
    folder: Path, kind: str, files: Sequence[Path], rest: Sequence[Path]
) -> dict[str, Found]:
    """Sort files by what their names say; those that say nothing are for training if none is."""
    named: dict[str | None, list[Path]] = {}
    for file in files:
        named.setdefault(split_of(file.relative_to(folder)), []).append(file)
    unnamed = named.pop(None, [])
    if kind in ("text", "class_texts") and (unnamed or "train" not in named):
        named, unnamed = {}, list(files)  # texts may have any name
    if unnamed and "train" not in named:
        named["train"], unnamed = unnamed, []
    rest = [*rest, *unnamed]
    remarks: tuple[Remark, ...] = ()
    if rest:
        names = [file.relative_to(folder).as_posix() for file in rest]
        message = (
            f"{len(rest):,} of {len(files) + len(rest) - len(unnamed):,} files in {folder} are not "
            f"read: {listed(names)}; name files by a pattern or a list to read others"
        )
        remarks = (Remark("unread files", message),)
    parts = {part: named[part] for part in PARTS if part in named}
    if len(parts) > 1:
        counts = ", ".join(f"{part} {len(found):,}" for part, found in parts.items())
        _log.info("%s: files by split: %s", folder, counts)
    return {
        part: Found(
            kind,
            tuple(found),
            _called(folder, part, found, alone=len(parts) == 1),
            remarks=remarks,
        )
        for part, found in parts.items()
    }


def _called(folder: Path, part: str, files: Sequence[Path], *, alone: bool) -> str:
    if len(files) == 1:
        return str(files[0])
    return str(folder) if alone else f"{folder} ({part})"


def _saved_splits(folder: Path) -> dict[str, Found]:
    try:
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{folder}: not a saved data set: dataset_dict.json is damaged") from None
    return {
        SPLIT_NAMES.get(name, name): Found("saved", (folder / name,), str(folder / name))
        for name in map(str, names)
    }


def _image_splits(folder: Path) -> dict[str, Found]:
    below = [entry for entry in sorted(folder.iterdir()) if is_visible(entry) and entry.is_dir()]
    parts = {SPLIT_NAMES[entry.name.lower()]: entry for entry in below if _names_split(entry)}
    if len(parts) == len(below) and "train" in parts:
        return {part: Found("images", (entry,), str(entry)) for part, entry in parts.items()}
    return {"train": Found("images", (folder,), str(folder))}


def _names_split(folder: Path) -> bool:
    return folder.name.lower() in SPLIT_NAMES and any(entry.is_dir() for entry in folder.iterdir())


def _holds_images(folder: Path, kinds: dict[str, list[Path]]) -> bool:
    """Say whether a folder's folders hold images, or it nothing else that could be read."""
    others = kinds.get("other", [])
    in_folders = [file for file in others if file.parent != folder and is_image(file)]
    return bool(in_folders) or (bool(others) and len(kinds) == 1)
