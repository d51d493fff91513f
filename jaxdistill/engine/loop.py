"""The one training loop: data, step, metrics, evaluation, checkpoints, preemption."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdistill.data.batching.batch_source import BatchInfo, BatchSource
from jaxdistill.data.batching.loader import check_position, device_batches, position
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.mean import Mean
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.telemetry import Telemetry
from jaxdistill.errors import CheckpointError, Preempted
from jaxdistill.runtime import preemption
from jaxdistill.runtime.group import SAVE
from jaxdistill.types import Json, Tree


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """How long a run is and when it looks up from the step."""

    total_steps: int
    evaluate_every: int
    log_every: int
    checkpoint_every: int | None
    checkpoint_seconds: float
    checkpoint_evaluations: bool
    early_stopping: int | None
    metric: str
    higher_is_better: bool
    prefetch: int = 2


@dataclasses.dataclass
class Progress:
    """What the loop remembers beside the state; saved with every checkpoint."""

    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_gain: int = 0
    evaluated_step: int | None = None


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """What a finished loop hands on."""

    state: TrainState
    progress: Progress
    steps: int
    seconds: float
    seconds_to_first_step: float | None
    examples_per_second: float
    tokens_per_second: float
    padding: float


def train(
    step: Callable[..., Any],
    state: TrainState,
    frozen: Tree,
    source: BatchSource,
    *,
    plan: LoopPlan,
    place: Callable[[dict[str, Any]], Any],
    evaluate: Callable[[TrainState], dict[str, float]],
    checkpointer: Checkpointer,
    telemetry: Callable[[int], Telemetry],
    learning_rate: Callable[[int], Any],
    gather: Callable[[Tree], TrainState] = lambda state: state,
    spread: Callable[[TrainState], Tree] = lambda state: state,
    frozen_hash: str | None = None,
    tell: Callable[[str, int, Mapping[str, float] | Path], None] = lambda moment, step, what: None,
) -> LoopResult:
    """Run `step` from the newest checkpoint to `plan.total_steps`.

    The host waits for the device only to log, to evaluate and to save. `spread` lays one copy of
    the state over devices as `step` wants it and `gather` takes one copy back. Checkpoints hold
    what is trained; by `frozen_hash` they know the frozen part of the student again.
    `tell(moment, step, what)` is called at `on_step` with the numbers that are logged, at
    `on_evaluation` with its metrics, and at `on_save` with the folder of checkpoints.

    Raises:
      Preempted: the process was asked to stop; the state is saved.
      CheckpointError: the checkpoint belongs to other data, seed, batches or frozen parameters.
    """
    start = time.monotonic()
    progress, first = Progress(), 0
    if checkpointer.latest_step() is not None:
        state, saved = checkpointer.restore(state)
        data, progress, first = _remembered(saved, checkpointer.folder)
        check_position(data, source)
        _check_frozen(saved.get("frozen"), frozen_hash)
    state = spread(state)
    report = telemetry(first)
    pending: list[dict[str, Mean]] = []
    window = _Window()
    whole = _Window()
    first_step_seconds = None
    last_save = time.monotonic()

    def save(done: int, value: float | None = None) -> None:
        nonlocal last_save
        remembered = {
            "data": position(source, done),
            "progress": dataclasses.asdict(progress),
            "frozen": frozen_hash,
        }
        checkpointer.save(done, gather(state), remembered, value)
        last_save = time.monotonic()
        tell("on_save", done, checkpointer.folder)

    def measure() -> None:
        pause = time.monotonic()
        try:
            values = evaluate(gather(state))
        except Preempted:
            save(done)
            checkpointer.wait()
            raise
        report.evaluation(done, values)
        tell("on_evaluation", done, values)
        _remember(progress, plan, done, values[plan.metric])
        if plan.checkpoint_evaluations or done == plan.total_steps:
            save(done, values[plan.metric])
        window.skip(time.monotonic() - pause)
        whole.skip(time.monotonic() - pause)

    done = first
    batches: Iterator[Any] = device_batches(
        source, first, plan.total_steps, place=place, prefetch=plan.prefetch
    )
    try:
        if done and _evaluation_due(plan, done) and progress.evaluated_step != done:
            measure()  # The run was stopped in the middle of this one.
        for batch, info in batches:
            if _stopped(plan, progress):
                break
            state, metrics = step(state, frozen, batch)
            done += 1
            pending.append(metrics)
            if first_step_seconds is None:
                jax.block_until_ready(state.step)
                first_step_seconds = time.monotonic() - start
                window, whole = _Window(), _Window()
            else:
                window.add(info)
                whole.add(info)
            if done % plan.log_every == 0 or done == plan.total_steps:
                values = _fetch(pending)
                left = (plan.total_steps - done) * window.seconds() / max(window.steps, 1)
                row = {
                    "epoch": round(done / source.steps_per_epoch, 4),
                    **values,
                    "learning_rate": float(learning_rate(done - 1)),
                    **window.rates(),
                    "seconds_left": round(left, 1),
                    "time": round(time.monotonic() - start, 3),
                }
                report.row(done, row)
                tell("on_step", done, row)
                pending, window = [], _Window()
            if _evaluation_due(plan, done):
                measure()
            if time.monotonic() - last_save > plan.checkpoint_seconds:
                SAVE.ask()  # Clocks differ between processes; all save the same step.
            due = plan.checkpoint_every is not None and done % plan.checkpoint_every == 0
            if SAVE.poll() or due:
                save(done)
            if preemption.requested() and done < plan.total_steps:
                save(done)
                checkpointer.wait()
                raise Preempted(
                    f"stopped after step {done} of {plan.total_steps}; the state is saved, "
                    "run the same command to go on"
                )
        jax.block_until_ready(state.step)
        seconds = whole.seconds()
        checkpointer.wait()
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
        report.close()
    return LoopResult(
        state=gather(state),
        progress=progress,
        steps=done,
        seconds=seconds,
        seconds_to_first_step=first_step_seconds,
        examples_per_second=whole.examples / max(seconds, 1e-9),
        tokens_per_second=whole.tokens / max(seconds, 1e-9),
        padding=1.0 - whole.tokens / max(whole.slots, 1),
    )


def _remembered(saved: Json, folder: Path) -> tuple[Json, Progress, int]:
    """Return where the data were, what the loop remembered, and the next step."""
    try:
        data = dict(saved["data"])
        return data, Progress(**saved["progress"]), int(data["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: the position of its newest checkpoint is damaged ({error!r}); delete the "
            "folder of the highest number in it, and the run goes on from the one before"
        ) from None


def _check_frozen(saved: str | None, now: str | None) -> None:
    if saved != now:
        raise CheckpointError(
            "checkpoint: its frozen parameters are not those of this run: their hash was "
            f"{saved and saved[:12]}, is {now and now[:12]}; go back to the model that it began "
            "with, or start again in another work directory"
        )


def _evaluation_due(plan: LoopPlan, done: int) -> bool:
    return done % plan.evaluate_every == 0 or done == plan.total_steps


def _stopped(plan: LoopPlan, progress: Progress) -> bool:
    patience = plan.early_stopping
    return patience is not None and progress.evaluations_without_gain >= patience


def _remember(progress: Progress, plan: LoopPlan, step: int, value: float) -> None:
    progress.evaluated_step = step
    best = progress.best_value
    # The newest of equals is best, as it is among the checkpoints.
    gained = best is None or (value >= best if plan.higher_is_better else value <= best)
    if gained:
        improved = best is None or value != best
        progress.best_step, progress.best_value = step, value
        progress.evaluations_without_gain = 0 if improved else progress.evaluations_without_gain + 1
    else:
        progress.evaluations_without_gain += 1


def _fetch(pending: list[dict[str, Mean]]) -> dict[str, float]:
    """Bring the metrics of the last steps to the host in one transfer and average them."""
    rows = jax.device_get(pending)
    values = {}
    for name in rows[0]:
        total = sum(float(row[name].total) for row in rows)
        weight = sum(float(row[name].weight) for row in rows)
        values[name] = total / weight if weight else 0.0
    return values


class _Window:
    """Examples, tokens and time since it was made."""

    def __init__(self) -> None:
        self.steps = self.examples = self.tokens = self.slots = 0
        self._start = time.monotonic()
        self._skipped = 0.0

    def add(self, info: BatchInfo) -> None:
        self.steps += 1
        self.examples += info.examples
        self.tokens += info.tokens
        self.slots += info.slots

    def skip(self, seconds: float) -> None:
        self._skipped += seconds

    def seconds(self) -> float:
        return time.monotonic() - self._start - self._skipped

    def rates(self) -> dict[str, float]:
        seconds = max(self.seconds(), 1e-9)
        rates = {"examples_per_second": round(self.examples / seconds, 1)}
        if self.tokens != self.examples:
            rates["tokens_per_second"] = round(self.tokens / seconds, 1)
        return rates
