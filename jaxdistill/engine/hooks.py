"""Callbacks of a run: at logs, evaluations and saves, never in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jaxdistill.errors import ConfigError, JaxDistillError

_REGISTERED: list[Hooks] = []


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Functions that a training loop calls, in process 0 alone.

    Attributes:
      on_step: `(step, metrics, *, stage)`, every `telemetry.log_every` steps: the numbers that are
        logged, means since the last log.
      on_evaluation: `(step, metrics, *, stage)`, after every evaluation.
      on_save: `(step, folder, *, stage)`, when a checkpoint has been asked for; it may still be
        written.
    """

    on_step: Callable[..., object] | None = None
    on_evaluation: Callable[..., object] | None = None
    on_save: Callable[..., object] | None = None


def register_hooks(
    *,
    on_step: Callable[..., object] | None = None,
    on_evaluation: Callable[..., object] | None = None,
    on_save: Callable[..., object] | None = None,
) -> Hooks:
    """Let functions be called while any run of this process trains.

    Args:
      on_step: `(step, metrics, *, stage)`, wherever metrics are logged.
      on_evaluation: `(step, metrics, *, stage)`, after every evaluation.
      on_save: `(step, folder, *, stage)`, after every save.

    Raises:
      ConfigError: no function is given.
    """
    hooks = Hooks(on_step, on_evaluation, on_save)
    if hooks == Hooks():
        raise ConfigError(
            "register_hooks: got no function, expected one of on_step, on_evaluation and on_save"
        )
    if hooks not in _REGISTERED:
        _REGISTERED.append(hooks)
    return hooks


def registered_hooks() -> tuple[Hooks, ...]:
    """Return everything that was registered, in its order."""
    return tuple(_REGISTERED)


def tell(
    hooks: Iterable[Hooks], moment: str, step: int, what: Mapping[str, float] | Path, stage: str
) -> None:
    """Call the functions of one moment, each with another copy.

    Raises:
      ConfigError: one of them fails.
    """
    for one in hooks:
        function = getattr(one, moment)
        if function is None:
            continue
        try:
            function(step, dict(what) if isinstance(what, Mapping) else what, stage=stage)
        except JaxDistillError:
            raise
        except Exception as error:
            name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
            raise ConfigError(
                f"hook {moment} ({name}): got {type(error).__name__}: {error}; mend the function, "
                "or run without it"
            ) from error
