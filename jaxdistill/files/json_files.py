"""JSON files: written whole or not at all, and read back with distrust."""

from __future__ import annotations

import json
from pathlib import Path

from jaxdistill.errors import CheckpointError, ConfigError, JaxDistillError
from jaxdistill.files.atomic import write_text
from jaxdistill.types import Json


def write_json(path: Path, content: object, *, indent: int = 2, sort_keys: bool = False) -> None:
    """Write a value as JSON.

    Raises:
      OSError: it cannot be written; what was there before is then untouched.
    """
    write_text(path, json.dumps(content, indent=indent, sort_keys=sort_keys) + "\n")


def read_object(
    path: Path,
    *needs: str,
    fix: str,
    error: type[JaxDistillError] = CheckpointError,
) -> Json:
    """Read back a JSON object that a run, a cache or a file of texts keeps.

    Args:
      path: the file.
      needs: keys that it must have.
      fix: what to do about a damaged one.
      error: class of what is raised.

    Raises:
      JaxDistillError: it is missing or damaged; the class is `error`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: the file is missing; {fix}") from None
    except (OSError, ValueError, RecursionError) as reason:
        got = "an empty file" if isinstance(reason, ValueError) and _is_empty(path) else reason
        raise error(f"{path}: got no readable JSON ({got}); {fix}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: got a JSON {type(content).__name__}, expected an object; {fix}")
    missing = [name for name in needs if name not in content]
    if missing:
        got = list(content)[:8]
        raise error(f"{path}: got the keys {got}, expected {missing[0]!r}, too; {fix}")
    return content


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0


def write_answer(path: Path, values: Json) -> None:
    """Write what was found out to a JSON file that the user named.

    Raises:
      ConfigError: it cannot be written.
    """
    try:
        write_json(path, values)
    except OSError as error:
        raise ConfigError(f"json: cannot write {str(path)!r} ({error.strerror})") from None
