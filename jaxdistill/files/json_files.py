"""JSON files: written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from jaxdistill.errors import ConfigError
from jaxdistill.files.atomic import write_text
from jaxdistill.types import Json


def write_json(path: Path, content: object, *, indent: int = 2, sort_keys: bool = False) -> None:
    """Write a value as JSON.

    Raises:
      OSError: it cannot be written; what was there before is then untouched.
    """
    write_text(path, json.dumps(content, indent=indent, sort_keys=sort_keys) + "\n")


def write_answer(path: Path, values: Json) -> None:
    """Write what was found out to a JSON file that the user named.

    Raises:
      ConfigError: it cannot be written.
    """
    try:
        write_json(path, values)
    except OSError as error:
        raise ConfigError(f"json: cannot write {str(path)!r} ({error.strerror})") from None
