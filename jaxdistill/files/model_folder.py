"""Model folders on disk: JSON and safetensors in, and out again under a temporary name.

Weights are read from safetensors only: a pickle can run code and is never opened.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxdistill.errors import ModelError
from jaxdistill.files.atomic import sync, sync_folder, write_text
from jaxdistill.files.json_files import write_json
from jaxdistill.files.safetensors_stream import Pending, TensorFile, write_file
from jaxdistill.types import Json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
TEMPLATES = "additional_chat_templates"
SHARD_BYTES = 5_000_000_000
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_ADAPTER = "adapter_config.json"
_SHOWN = 8
# What a model before may have left, in this or the other layout.
_OWN = ("config.json", "modules.json")
_MODULE = re.compile(r"\d+_(Transformer|Pooling|Dense|Normalize)")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file, not yet read."""

    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        """Read the tensor."""
        return self.file.get_tensor(self.name)

    def equals(self, other: Stored) -> bool:
        """Return whether another tensor holds the same values, without reading either at once."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return np.array_equal(self.read(), other.read())
        ours, theirs = self.file.pieces(self.name), other.file.pieces(other.name)
        return all(np.array_equal(one, two) for one, two in zip(ours, theirs, strict=True))


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
      ModelError: no such file, or no JSON object in it.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        refuse_adapter(path.parent)
        known = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else None
        found = "no such folder" if known is None else f"a folder with {some(known)}"
        raise ModelError(f"{path}: got {found}, expected a Hugging Face model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: got no readable JSON ({error}); copy the file again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: got a JSON {type(content).__name__}, expected an object")
    return content


def open_tensors(folder: Path) -> dict[str, Stored]:
    """Find the tensors of a folder's safetensors, one file or shards, by name; none is read yet.

    Raises:
      ModelError: no safetensors, only a pickle, or a missing or damaged file.
    """
    refuse_adapter(folder)
    if (folder / WEIGHTS).is_file():
        return _open_file(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    raise ModelError(_no_weights(folder))


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError where a folder holds an adapter (LoRA, …), which is only a part of a model.

    Weights beside it are those of its base, to which transformers would add it.
    """
    path = folder / _ADAPTER
    if not path.is_file():
        return
    try:
        described = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        described = None
    base = described.get("base_model_name_or_path") if isinstance(described, dict) else None
    alone = f", or remove {_ADAPTER} to take {WEIGHTS} alone"
    raise ModelError(
        f"{folder}: got an adapter ({_ADAPTER}) of the model {base!r}, expected a whole model; "
        "merge the two (in peft: model.merge_and_unload().save_pretrained(OTHER_FOLDER)) and give "
        f"that folder{alone if (folder / WEIGHTS).is_file() else ''}"
    )


def _open_file(path: Path) -> dict[str, Stored]:
    if not path.is_file():
        raise ModelError(f"{path}: got no file, expected the shard that {INDEX} names")
    try:
        with safetensors.safe_open(path, "np"):  # checks the header and the size
            file = TensorFile(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: got {path.stat().st_size} bytes that are no whole safetensors file "
            f"({error}); copy it again"
        ) from None
    return {
        name: Stored(file, name, entry.shape, entry.dtype) for name, entry in file.entries.items()
    }


def _open_shards(folder: Path) -> dict[str, Stored]:
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ModelError(f"{folder / INDEX}: got no 'weight_map', expected tensor name -> file")
    files = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise ModelError(f"{folder / INDEX}: got shard {shard!r}, expected a bare file name")
        files[shard] = _open_file(folder / shard)
    lost = sorted(name for name, shard in places.items() if name not in files[shard])
    if lost:
        raise ModelError(f"{folder / INDEX}: {len(lost)} tensors not in their shard: {some(lost)}")
    return {name: files[shard][name] for name, shard in places.items()}


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder}: got only {some(pickles)}, expected {WEIGHTS}; such a file can run code and "
            "is never opened here: convert it to safetensors where it came from "
            "(in transformers: model.save_pretrained(folder))"
        )
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"{folder}: got {some(found)}, expected {WEIGHTS} or {INDEX}"


def some(names: Sequence[str]) -> str:
    """List names; a long list ends in the number of those not shown."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def write_folder(
    folder: Path,
    config: Mapping[str, object],
    tensors: Mapping[str, Pending],
    companions: Sequence[Path],
    *,
    texts: Mapping[str, str] | None = None,
    inside: str = "",
    beside: Mapping[str, str | Mapping[str, Pending]] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model folder under a temporary name and rename it; other files in it are kept.

    Args:
      companions: files to copy; those of a folder `TEMPLATES` into one of that name.
      texts: contents of further files by name, or of companions instead of a copy.
      inside: the folder in it that the model goes into, with all of the above.
      beside: contents, or tensors, of files by their paths in the folder.

    Raises:
      ModelError: it cannot be written; what was there before is then untouched.
    """
    mark = uuid.uuid4().hex[:8]
    new, old = (folder.with_name(f".{folder.name}.{kind}-{mark}") for kind in ("new", "old"))
    try:
        home = new / inside
        home.mkdir(parents=True)
        _write_tensors(home, tensors, shard_bytes)
        write_json(home / "config.json", config, sort_keys=True)
        for path in companions:
            place = home / TEMPLATES if path.parent.name == TEMPLATES else home
            place.mkdir(exist_ok=True)
            shutil.copyfile(path, place / path.name)
            with (place / path.name).open("rb") as file:
                sync(file)
        for name, text in (texts or {}).items():
            write_text(home / name, text)
        for name, content in (beside or {}).items():
            (new / name).parent.mkdir(exist_ok=True)
            if isinstance(content, str):
                write_text(new / name, content)
            else:
                write_file(new / name, content, {"format": "pt"})
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        raise ModelError(f"{folder}: the model cannot be written ({error})") from None
    if old.exists():
        _keep_others(old, folder)
    sync_folder(folder.parent)


def _write_tensors(folder: Path, tensors: Mapping[str, Pending], shard_bytes: int) -> None:
    """Write one file, or shards and their index as transformers does, a tensor at a time."""
    shards: list[dict[str, Pending]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    metadata = {"format": "pt"}
    if len(shards) == 1:
        write_file(folder / WEIGHTS, shards[0], metadata)
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, shard, metadata)
        places |= dict.fromkeys(shard, file)
    totals = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
    }
    index = {"metadata": totals, "weight_map": dict(sorted(places.items()))}
    write_json(folder / INDEX, index)


def _keep_others(old: Path, folder: Path) -> None:
    for path in old.iterdir():
        weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        stale = weights or path.name in _OWN or _MODULE.fullmatch(path.name)
        if not stale and not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(old)
