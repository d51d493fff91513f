"""YAML and command-line values to a checked `Config`, and the recipes that travel along."""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from jaxdistill.config import Config
from jaxdistill.errors import ConfigError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    here = Path(__file__).resolve().parent
    for folder in (here / "recipes", here.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file or a recipe's name, apply `key=value` overrides and check everything.

    Environment variables in strings (`${NAME}`) are expanded.

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
    values = _parse(path.read_text(encoding="utf-8"), where=str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got {type(values).__name__}, expected a mapping of sections")
    values.setdefault("name", path.stem)
    for override in overrides:
        apply_override(values, override)
    return check(_expand(values))


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted `key=value`, in place; the value is read as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override: got {override!r}, expected key=value, e.g. train.epochs=2")
    node = values
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    node[last] = _parse(text, where=key)


def check(values: Mapping[str, Any]) -> Config:
    """Validate a nested mapping into a `Config`.

    Raises:
      ConfigError: naming every unknown key (with the nearest known one) and every bad value.
    """
    faults = _unknown_keys(Config, values, "")
    if faults:
        raise ConfigError("; ".join(faults))
    for required in ("data", "teacher", "student"):
        if values.get(required) is None:
            values = {**values, required: {}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(fault) for fault in error.errors())) from None


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(*parts: Any) -> str:
    """Return a stable short hash of JSON-like values and pydantic models."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List `key: old -> new` for every value that differs between two nested mappings."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def _parse(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: not valid YAML: {reason}") from None


def _expand(value: Any) -> Any:
    if isinstance(value, str):
        expanded = os.path.expanduser(os.path.expandvars(value))
        missing = re.findall(r"\$\{(\w+)\}", expanded)
        if missing:
            raise ConfigError(
                f"config: {value!r} names the environment variable {missing[0]}, which is not set; "
                f"set it or give the value on the command line"
            )
        return expanded
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return value


def _unknown_keys(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> list[str]:
    faults = []
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            known = list(model.model_fields)
            faults.append(
                f"{prefix}{key}: unknown key.{did_you_mean(str(key), known) or f' Known: {known}'}"
            )
            continue
        for section, is_map in _sections(field.annotation):
            if is_map and isinstance(value, dict):
                for name, item in value.items():
                    if isinstance(item, dict):
                        faults += _unknown_keys(section, item, f"{prefix}{key}.{name}.")
            elif isinstance(value, dict):
                faults += _unknown_keys(section, value, f"{prefix}{key}.")
    return faults


def _sections(annotation: Any) -> list[tuple[type[BaseModel], bool]]:
    """Find the models inside an annotation, and whether they are the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, False)]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return [(section, True) for section, _ in _sections(arguments[1])]
    return [found for argument in arguments for found in _sections(argument)]


def _describe(fault: Any) -> str:
    names = [str(part) for part in fault["loc"]]
    # Unions add the member's type to the location; a user did not write it.
    names = [name for name in names if not re.search(r"Config$|\[|^(str|int|float|dict)$", name)]
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message if ":" in message.split(" ")[0] else f"{'.'.join(names)}: {message}"
    return f"{'.'.join(names)}: got {fault['input']!r}, expected: {message}"
