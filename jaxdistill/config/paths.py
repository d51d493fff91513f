"""The values of a configuration that are places on disk: expanded, made absolute, compared."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxdistill.config.schema import Config
from jaxdistill.config.sources import FILES, sources
from jaxdistill.errors import ConfigError
from jaxdistill.types import Json

_SPLITS = ("train", "validation", "test")
_MODELS = (("teacher", "model"), ("teacher", "cache"), ("student", "model"), ("data", "tokenizer"))


def expand(values: Json) -> Json:
    """Expand `${NAME}` in every text, and `~` and `$NAME` in places on disk, too.

    Raises:
      ConfigError: an environment variable that is not set.
    """
    source = values.get("data") or {}
    named = source.get("source", "files") if isinstance(source, Mapping) else "files"
    return map_places(_variables(dict(values)), _from_shell, source=str(named))


def absolute(config: Config) -> Config:
    """Return the configuration with places that mean the same from every directory."""
    values: Json = config.model_dump(include={"data", "teacher", "student"})
    found = map_places(values, os.path.abspath, source=config.data.source)
    sections = {}
    for name, section in found.items():
        model = getattr(config, name)
        changed = {
            key: value
            for key, value in section.items()
            if isinstance(value, str) and value != getattr(model, key)
        }
        sections[name] = model.model_copy(update=changed)
    return config.model_copy(update=sections)


def real(values: Json) -> Json:
    """Return a dumped configuration with every place as the file system names it."""
    return map_places(values, os.path.realpath, source=values["data"]["source"])


def moved(values: Json, old: str, new: str) -> Json:
    """Return what `real` returned, as it is where all has moved from one folder to another."""

    def place(path: str) -> str:
        return os.path.normpath(os.path.join(new, os.path.relpath(path, old)))

    return map_places(values, place, source=values["data"]["source"])


def map_places(values: Json, change: Callable[[str], str], *, source: str) -> Json:
    """Return nested values with every place on disk changed; addresses of the net are none."""
    splits = [("data", name) for name in _SPLITS] if source == FILES else []
    if source not in (FILES, *sources()) and os.path.isdir(source):
        splits = [("data", "source")]
    found = dict(values)
    for section, name in (*splits, *_MODELS):
        inner = found.get(section)
        if not isinstance(inner, Mapping):
            continue
        place = inner.get(name)
        if isinstance(place, str) and place and "://" not in place:
            found[section] = {**inner, name: change(place)}
    return found


def _from_shell(place: str) -> str:
    return os.path.expanduser(os.path.expandvars(place))


def _variables(value: Any) -> Any:
    if isinstance(value, str):
        missing = [name for name in re.findall(r"\$\{(\w+)\}", value) if name not in os.environ]
        if missing:
            raise ConfigError(
                f"config: {value!r} names the environment variable {missing[0]}, which is not set; "
                "set it or give the value on the command line"
            )
        return re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]], value)
    if isinstance(value, dict):
        return {key: _variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_variables(item) for item in value]
    return value
