"""What a run reports while it runs: console progress, JSONL, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from jaxdistill.config.schema import TelemetryConfig
from jaxdistill.errors import ConfigError

_console = Console(stderr=True)
_PLAIN_SECONDS = 10.0


class Telemetry:
    """Writes the rows of one stage, in process 0 alone."""

    def __init__(
        self, folder: Path, config: TelemetryConfig, *, stage: str, total: int, first: int = 0
    ) -> None:
        self._stage, self._total = stage, total
        self._speaks = jax.process_index() == 0
        self._live: Progress | None = None
        self._file = self._board = self._wandb = None
        self._last_line = 0.0
        if not self._speaks:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if path.exists():
            _drop_rows_after(path, first)
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder) if config.tensorboard else None
        self._wandb = _wandb(config.wandb_project, folder, stage) if config.wandb_project else None
        style = config.progress
        if style == "auto":
            style = "live" if _console.is_terminal else "plain"
        self._plain = style == "plain"
        if style == "live":
            live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=_console,
                transient=True,
            )
            self._task = live.add_task(stage, total=total, completed=first, numbers="")
            live.start()
            self._live = live

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row of training metrics."""
        if not self._speaks:
            return
        self._write(step, values)
        shown = _shown(values)
        if self._live is not None:
            self._live.update(self._task, completed=step, numbers=shown)
        elif self._plain and (
            time.monotonic() - self._last_line > _PLAIN_SECONDS or step == self._total
        ):
            self._last_line = time.monotonic()
            left = values.get("seconds_left")
            tail = "" if left is None else f"  {left:.0f} s left"
            self._say(f"{self._stage}  step {step}/{self._total}  {shown}{tail}")

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row of evaluation metrics."""
        if not self._speaks:
            return
        self._write(step, {"event": "evaluation", **values})
        if self._live is not None or self._plain:
            self._say(f"{self._stage}  step {step}/{self._total}  evaluation  {_shown(values)}")

    def close(self) -> None:
        """Flush and release every sink."""
        if self._live is not None:
            self._live.stop()
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _say(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _write(self, step: int, values: Mapping[str, float | str]) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        prefix = "evaluation/" if values.get("event") == "evaluation" else ""
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(f"{prefix}{key}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{prefix}{key}": value for key, value in numbers.items()}, step=step)


def say(line: str) -> None:
    """Print one line of progress, from process 0 only."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def _shown(values: Mapping[str, float]) -> str:
    hidden = {"time", "epoch", "event", "seconds_left", "gradient_norm", "invalid_labels"}
    parts = []
    for key, value in values.items():
        if key in hidden or not isinstance(value, int | float):
            continue
        if key.endswith("_per_second"):
            parts.append(f"{value:,.0f} {key.removesuffix('_per_second')}/s")
        elif key == "learning_rate":
            parts.append(f"lr {value:.2e}")
        else:
            parts.append(f"{key} {value:.4f}")
    return "  ".join(parts)


def _drop_rows_after(path: Path, step: int) -> None:
    """Forget rows that a resumed run will write again."""
    kept = []
    # Bytes that are no UTF-8 stay inside of their line, and what they damage is forgotten.
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # The line that a kill cut off.
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _tensorboard(folder: Path) -> Any:
    try:
        board = importlib.import_module("tensorboardX")
    except ImportError:
        raise ConfigError(
            "telemetry.tensorboard: tensorboardX is not installed; "
            "pip install 'jaxdistill[tensorboard]' or set telemetry.tensorboard=false"
        ) from None
    return board.SummaryWriter(str(folder / "tensorboard"))


def _wandb(project: str, folder: Path, stage: str) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError(
            "telemetry.wandb_project: wandb is not installed; "
            "pip install 'jaxdistill[wandb]' or drop telemetry.wandb_project"
        ) from None
    return wandb.init(project=project, dir=str(folder), name=stage, reinit="create_new")
