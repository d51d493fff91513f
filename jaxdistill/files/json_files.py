"""What was found out, as a file that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxdistill.errors import ConfigError


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values to a file that the user named.

    Raises:
      ConfigError: it cannot be written.
    """
    try:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"json: cannot write {str(path)!r} ({error.strerror})") from None
