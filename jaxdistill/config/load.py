"""YAML and command-line values to a checked `Config`, and the recipes that travel along."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jaxdistill.config.effects import effective
from jaxdistill.config.faults import described, key_faults, sections_in, told
from jaxdistill.config.inputs import read_inputs
from jaxdistill.config.objective import read_term
from jaxdistill.config.paths import expand
from jaxdistill.config.plugins import load_plugins
from jaxdistill.config.schema import Config
from jaxdistill.config.values import annotation_at, read_override, read_yaml, write_yaml
from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.files.hashing import SHORT, hash_json
from jaxdistill.types import Json


def recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "recipes", here.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def describe_recipes() -> dict[str, str]:
    """Return the description of each shipped recipe by name."""
    found = {}
    for name, path in recipes().items():
        values = _parse(path) or {}
        found[name] = " ".join(str(values.get("description", "")).split())
    return found


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file or a recipe's name, apply `key=value` overrides and check everything.

    Environment variables in texts (`${NAME}`) are expanded, `~` and `$NAME` in places on disk.

    Raises:
      ConfigError: with one line per fault.
    """
    path = Path(source)
    if not path.is_file():
        known = recipes()
        if source in known:
            path = known[source]
        elif Path(source).stem in known and not path.parent.is_dir():
            path = known[Path(source).stem]
        else:
            raise ConfigError(
                f"config: got {source!r}, expected a YAML file or one of the recipes "
                f"{sorted(known)}.{did_you_mean(source, known)}"
            )
    values = _parse(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got {type(values).__name__}, expected a mapping of sections")
    values.setdefault("name", name_of(path))
    for override in overrides:
        apply_override(values, override)
    try:
        return check(expand(values))
    except RecursionError:
        raise ConfigError(
            f"{path}: got lists or mappings inside of more others than can be read; is one of the "
            "keys given a thousand times over?"
        ) from None


def name_of(path: Path) -> str:
    """Return a run's name after its file: what is no letter, digit, `_` or `.` becomes `-`."""
    return re.sub(r"[^\w.]+", "-", path.stem).strip("-.") or "run"


def apply_override(values: Json, override: str) -> None:
    """Set one dotted `key=value`, in place; the value is read as what its field holds."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override: got {override!r}, expected key=value, e.g. train.epochs=2")
    node = values
    *parents, last = path = key.strip().split(".")
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    node[last] = read_override(text, annotation_at(Config, path), where=key.strip())


def check(values: Mapping[str, object]) -> Config:
    """Validate a nested mapping into a `Config`.

    Raises:
      ConfigError: naming every unknown key (with the nearest known one) and every bad value.
    """
    load_plugins()
    message = told(key_faults(Config, values, ""))
    if message:
        raise ConfigError(message)
    # A section with nothing under it means its defaults, unless null says something else there.
    for name, field in Config.model_fields.items():
        is_section = any(not is_map for _, is_map in sections_in(field.annotation))
        means_none = type(None) in typing.get_args(field.annotation)
        empty = name in values and values[name] is None and not means_none
        if is_section and (empty or (field.is_required() and name not in values)):
            values = {**values, name: {}}
    config = None
    terms, faults = _read_terms(values.get("objective"))
    data, more = _read_data(values.get("data"))
    faults += more
    try:
        config = Config.model_validate({**values, **terms, **data})
    except ValidationError as error:
        faults += described(error.errors())
    if faults or config is None:
        raise ConfigError(told(faults))
    return config


def _read_terms(objective: object) -> tuple[Json, list[str]]:
    """Return the objective with its terms read, where all can be, and their faults."""
    if not isinstance(objective, Mapping):
        return {}, []
    terms, faults = {}, []
    for name, values in objective.items():
        try:
            terms[name] = read_term(values)
        except ValidationError as error:
            found = [
                {**fault, "loc": ("objective", name, *fault["loc"])} for fault in error.errors()
            ]
            faults += described(found)
        except ValueError as error:
            faults.append(f"objective.{name}.{error}")
    # What has faults is already reported; the rest of the config is checked without it.
    return {"objective": {} if faults else terms}, faults


def _read_data(data: object) -> tuple[Json, list[str]]:
    """Return the section `data` with its kind of input read, where it can be, and its faults."""
    if not isinstance(data, Mapping):
        return {}, []
    faults = []
    try:
        return {"data": read_inputs(data)}, faults
    except ValidationError as error:
        faults = described(
            [{**fault, "loc": ("data", "inputs", *fault["loc"])} for fault in error.errors()]
        )
    except ValueError as error:
        faults = [f"data.{error}"]
    # What has faults is already reported; the rest of the config is checked without it.
    return {"data": {key: data[key] for key in data if key not in ("modality", "inputs")}}, faults


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML."""
    return write_yaml(effective(config))


def fingerprint(*parts: object) -> str:
    """Return a stable short hash of JSON-like values and pydantic models."""
    plain = [
        part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts
    ]
    return hash_json(plain, default=str)[:SHORT]


def differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """List `key: old -> new` for every value that differs between two nested mappings."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: got a binary file, expected YAML text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    # JSON is YAML but for tabs between values; within its texts there are none.
    text = text.replace("\t", " ") if path.suffix == ".json" else text
    return read_yaml(text, Config, where=str(path))
