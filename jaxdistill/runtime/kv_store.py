"""Where processes leave short texts for each other, beside what their devices exchange."""

from __future__ import annotations

from typing import Any, Protocol

_PREFIX = "jaxdistill/"


class Board(Protocol):
    """Texts by name, the same for every process."""

    def put(self, key: str, text: str) -> None:
        """Set or replace a text."""
        ...

    def get(self, key: str) -> str | None:
        """Return a text, or None where there is none."""
        ...

    def under(self, folder: str) -> dict[str, str]:
        """Return the texts whose names begin with `folder` and a slash, by the rest of the name."""
        ...


class CoordinatorBoard:
    """The store that jax's coordination service keeps at process 0."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, key: str, text: str) -> None:
        self._client.key_value_set(_PREFIX + key, text, allow_overwrite=True)

    def get(self, key: str) -> str | None:
        try:
            return self._client.key_value_try_get(_PREFIX + key)
        except RuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def under(self, folder: str) -> dict[str, str]:
        prefix = f"{_PREFIX}{folder}/"
        found = self._client.key_value_dir_get(prefix)
        return {key.removeprefix(prefix): text for key, text in found}
