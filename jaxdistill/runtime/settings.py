"""What one of several processes has to know: where they meet, how many they are, which it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxdistill.errors import ConfigError

PREFIX = "JAXDISTILL_"


@dataclasses.dataclass(frozen=True)
class ProcessSettings:
    """How this process finds the others, and how long it waits for them.

    Attributes:
      coordinator: HOST:PORT of process 0; None where a cluster tells.
      processes: how many there are; None where a cluster tells.
      process_id: which of them this is, from 0; None where a cluster tells.
      initialization_seconds: how long all may take to start.
      heartbeat_seconds: how long a process may be silent before the others give up.
      shutdown_seconds: how long the first to end waits for the last.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    initialization_seconds: float = 300.0
    heartbeat_seconds: float = 60.0
    shutdown_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("initialization_seconds", "heartbeat_seconds", "shutdown_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{option(name)}: got {getattr(self, name)}, expected more than 0"
                )
        if self.processes is not None and self.processes < 1:
            raise ConfigError(f"--processes: got {self.processes}, expected at least 1")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ConfigError(
                    f"--coordinator: got {self.coordinator!r}, expected HOST:PORT of process 0"
                )
        if self.process_id is not None:
            count = self.processes
            if self.process_id < 0 or (count is not None and self.process_id >= count):
                expected = "at least 0" if count is None else f"0 to {count - 1}"
                raise ConfigError(f"--process-id: got {self.process_id}, expected {expected}")

    @property
    def alone(self) -> bool:
        """Whether it was configured that there is one process."""
        return self.processes == 1

    @property
    def explicit(self) -> bool:
        """Whether everything was given, so that no cluster is asked.

        Raises:
          ConfigError: only a part was given.
        """
        values = {
            "--coordinator": self.coordinator,
            "--processes": self.processes,
            "--process-id": self.process_id,
        }
        missing = [name for name, value in values.items() if value is None]
        if missing and len(missing) < len(values):
            given = [name for name in values if name not in missing]
            raise ConfigError(
                f"{', '.join(given)}: got it without {' and '.join(missing)}, expected all of "
                "--coordinator HOST:PORT --processes N --process-id I, or none on a cluster"
            )
        return not missing


def option(name: str) -> str:
    """Return the option that sets a field."""
    return "--" + name.replace("_seconds", "_timeout").replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable that sets a field."""
    return PREFIX + name.upper()


def to_environment(settings: ProcessSettings) -> dict[str, str]:
    """Return the environment variables that say the same."""
    fields = dataclasses.asdict(settings)
    return {variable(name): str(value) for name, value in fields.items() if value is not None}


def from_environment(environment: Mapping[str, str]) -> ProcessSettings:
    """Read what `to_environment` wrote.

    Raises:
      ConfigError: a value is no number, or out of range.
    """
    values: dict[str, str | int | float] = {}
    for field in dataclasses.fields(ProcessSettings):
        text = environment.get(variable(field.name))
        if not text:
            continue
        kind = str if field.name == "coordinator" else int
        kind = float if field.name.endswith("_seconds") else kind
        try:
            values[field.name] = kind(text)
        except ValueError:
            raise ConfigError(f"{variable(field.name)}: got {text!r}, expected a number") from None
    return ProcessSettings(**values)  # pyright: ignore[reportArgumentType]
