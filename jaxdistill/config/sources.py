"""Sources of data that a name alone stands for: those of the package, and registered ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

from jaxdistill.config.plugins import load_plugins, refuse_taken
from jaxdistill.errors import ConfigError, did_you_mean

FILES = "files"
"""The source that `data.train` names the files of."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Data that a config names with `data: {source: NAME}`.

    The function is given as itself or as `package.module:name`, which is imported on first use, so
    that a config that names the source can be checked without reading it.

    Attributes:
      name: name of the source in a config.
      read: `() -> {split: {column: values}}` for `train` and, where the source has them,
        `validation` and `test`; values are lists or arrays of equal length. Columns are found by
        their usual names, or those that `data` gives. The first sentence of its docstring is
        listed.
      labels: names of the classes in the order of their ids, where the column `label` holds ids.
      modality: kind of input that it holds, for plans, which read no data.
      sizes: sizes of an example of that kind by name, such as `height`, `width` and `channels` of
        images, where all have the same.

    Raises:
      ConfigError: a name that cannot be distinguished from a file or a Hugging Face dataset.
    """

    name: str
    read: str | Callable[[], Mapping[str, object]]
    labels: tuple[str, ...] | None = None
    modality: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or self.name == FILES or set(self.name) & set("/\\ "):
            raise ConfigError(
                f"source: got the name {self.name!r}, expected one without '/' that is not "
                f"{FILES!r}, such as 'my_data'"
            )


_EMBEDDED = (
    Source(
        "digits",
        "jaxdistill.data.reading.embedded:digits",
        labels=tuple("0123456789"),
        modality="image",
        sizes={"height": 8, "width": 8, "channels": 1},
    ),
    Source("stdlib", "jaxdistill.data.reading.embedded:standard_library"),
)
_OWN = {source.name: source for source in _EMBEDDED}
_REGISTERED: dict[str, Source] = {}


def register_source(source: Source) -> Source:
    """Make a source known to configs, `jaxdistill methods` and plans under its name.

    Raises:
      ConfigError: another source has that name.
    """
    refuse_taken("register_source", "source", source.name, source, _OWN, _REGISTERED)
    _REGISTERED[source.name] = source
    return source


def sources() -> dict[str, Source]:
    """Return every source by name, those of the package first."""
    load_plugins()
    return _OWN | _REGISTERED


def check_source(name: str) -> None:
    """Refuse a name that is nearly a known one and cannot be meant as anything else.

    Whether a Hugging Face dataset exists is known only when it is loaded.

    Raises:
      ValueError: it is neither known, nor a place, nor a name with an owner, nor far from all.
    """
    known = (FILES, *sources())
    if name in known or "/" in name or os.path.isdir(name):
        return
    meant = did_you_mean(name, known)
    if meant:
        raise ValueError(
            f"source: got {name!r}, expected one of {list(known)}, or OWNER/NAME of a Hugging Face "
            f"dataset.{meant}"
        )
