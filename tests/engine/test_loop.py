"""When a loop logs, measures, saves and tells, with steps that do nothing but count."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine import loop
from jaxdistill.engine.mean import Mean
from jaxdistill.errors import CheckpointError, Preempted
from jaxdistill.runtime import preemption

PLAN = loop.LoopPlan(
    total_steps=7,
    evaluate_every=3,
    log_every=2,
    checkpoint_every=None,
    checkpoint_seconds=1e9,
    checkpoint_evaluations=False,
    early_stopping=None,
    metric="accuracy",
    higher_is_better=True,
)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches that hold the number of their step, four to an epoch."""

    steps_per_epoch: int = 4
    identity: Any = dataclasses.field(default_factory=lambda: {"seed": 0})
    fingerprint: str = "these"

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return {"number": np.array(step)}

    def info(self, step: int) -> Any:
        return SimpleNamespace(examples=2, tokens=6, slots=8)


class Run:
    """A run whose events, in their order, are all that happens."""

    def __init__(self, saved: tuple[Any, dict[str, Any]] | None = None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.rows: list[dict[str, Any]] = []
        self.saved, self.folder = saved, Path("here")

    def train(self, *, source: Any = None, **plan: Any) -> loop.LoopResult:
        more = {name: plan.pop(name) for name in ("frozen_hash", "spread", "gather") & plan.keys()}
        return loop.train(
            self.step,
            SimpleNamespace(step=jnp.int32(0)),
            "frozen",
            Batches() if source is None else source,
            plan=dataclasses.replace(PLAN, **plan),
            place=dict,
            evaluate=self.evaluate,
            checkpointer=self,
            telemetry=self.begin,
            learning_rate=lambda step: 10 * step,
            tell=lambda moment, step, what: self.events.append((moment, step, what)),
            **more,
        )

    def happened(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] in kinds]

    def step(self, state: Any, frozen: Any, batch: Any) -> Any:
        """Count; the loss of a step is its number, and it weighs as much."""
        assert frozen == "frozen"
        number = int(batch["number"])
        self.events.append(("step", number))
        after = SimpleNamespace(step=state.step + 1)
        return after, {"loss": Mean(jnp.float32(number * number), jnp.float32(number))}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"accuracy": float(state.step)}

    # What stands for the telemetry.
    def begin(self, first: int) -> Any:
        self.events.append(("begin", first))
        return self

    def row(self, step: int, values: dict[str, Any]) -> None:
        self.events.append(("row", step))
        self.rows.append(values)

    def evaluation(self, step: int, values: dict[str, Any]) -> None:
        self.events.append(("evaluation", step, values["accuracy"]))

    def close(self) -> None:
        self.events.append(("close",))

    # What stands for the checkpoints.
    def save(self, step: int, state: Any, position: dict[str, Any], value: Any = None) -> None:
        assert int(state.step) == step
        self.events.append(("save", step, value))
        self.saved = state, position

    def wait(self) -> None:
        self.events.append(("wait",))

    def latest_step(self) -> int | None:
        return None if self.saved is None else int(self.saved[0].step)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        assert int(like.step) == 0
        assert self.saved is not None
        return self.saved


def test_everything_happens_in_its_turn():
    run = Run()
    result = run.train()
    told = [event[:2] for event in run.events]
    assert told == [
        *[("begin", 0), ("step", 0), ("step", 1), ("row", 2), ("on_step", 2), ("step", 2)],
        *[("evaluation", 3), ("on_evaluation", 3), ("step", 3), ("row", 4), ("on_step", 4)],
        *[("step", 4), ("step", 5), ("row", 6), ("on_step", 6)],
        *[("evaluation", 6), ("on_evaluation", 6), ("step", 6), ("row", 7), ("on_step", 7)],
        *[("evaluation", 7), ("on_evaluation", 7), ("save", 7), ("on_save", 7)],
        *[("wait",), ("close",)],
    ]
    assert [what for _, _, what in run.happened("on_step")] == run.rows
    assert [what for _, _, what in run.happened("on_evaluation")] == [
        {"accuracy": 3.0},
        {"accuracy": 6.0},
        {"accuracy": 7.0},
    ]
    assert run.happened("on_save") == [("on_save", 7, Path("here"))]
    assert (result.steps, int(result.state.step)) == (7, 7)
    assert result.padding == 0.25


def test_a_row_tells_the_mean_since_the_last_one_and_the_rate_of_its_own_step():
    run = Run()
    run.train()
    numbers = [np.array(part) for part in ([0, 1], [2, 3], [4, 5], [6])]
    expected = [np.average(part, weights=part) for part in numbers]
    np.testing.assert_allclose([row["loss"] for row in run.rows], expected, rtol=1e-6)
    assert [row["learning_rate"] for row in run.rows] == [10, 30, 50, 60]
    assert [row["epoch"] for row in run.rows] == [0.5, 1.0, 1.5, 1.75]


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        ({"checkpoint_every": 2}, [(2, None), (4, None), (6, None), (7, 7.0)]),
        ({"checkpoint_evaluations": True}, [(3, 3.0), (6, 6.0), (7, 7.0)]),
        (
            {"checkpoint_seconds": -1.0, "total_steps": 3},
            [(1, None), (2, None), (3, 3.0), (3, None)],
        ),
    ],
    ids=["steps", "evaluations", "seconds"],
)
def test_a_state_is_saved_as_the_plan_says(plan, steps):
    run = Run()
    run.train(**plan)
    assert [event[1:] for event in run.happened("save")] == steps
    kinds = [event[0] for event in run.happened("save", "on_save")]
    assert kinds == ["save", "on_save"] * len(steps)


def stopped(monkeypatch: Any, after: int, **plan: Any) -> Run:
    """Return a run that was asked to stop after so many steps."""
    run = Run()
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: len(run.happened("step")) == after)
        with pytest.raises(Preempted, match=f"stopped after step {after} of 7; the state is saved"):
            run.train(**plan)
    assert [event[0] for event in run.events[-4:]] == ["save", "on_save", "wait", "close"]
    return run


def test_a_run_that_was_stopped_goes_on_with_its_next_step(monkeypatch):
    first = stopped(monkeypatch, 4)
    again = Run(first.saved)
    again.train()
    assert again.happened("begin") == [("begin", 4)]
    assert again.happened("step") == [("step", 4), ("step", 5), ("step", 6)]
    assert [event[1] for event in again.happened("evaluation")] == [6, 7]


def test_what_was_best_is_remembered_across_a_stop(monkeypatch):
    first = stopped(monkeypatch, 4, higher_is_better=False)
    result = Run(first.saved).train(higher_is_better=False)
    assert (result.progress.best_step, result.progress.best_value) == (3, 3.0)
    assert result.progress.evaluations_without_gain == 2


def test_an_evaluation_that_was_cut_off_is_made_up_for(monkeypatch):
    run = Run()

    def cut_off(state: Any) -> dict[str, float]:
        raise Preempted("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate", cut_off)
        with pytest.raises(Preempted, match="in the middle"):
            run.train()
    assert run.happened("save") == [("save", 3, None)]
    again = Run(run.saved)
    again.train()
    assert [event[:2] for event in again.events[:3]] == [
        ("begin", 3),
        ("evaluation", 3),
        ("on_evaluation", 3),
    ]
    assert again.happened("step")[0] == ("step", 3)


@pytest.mark.parametrize("known", [("a", "b"), (None, "b"), ("a", None)])
def test_a_state_of_another_frozen_part_or_of_other_batches_is_refused(monkeypatch, known):
    first = stopped(monkeypatch, 2, frozen_hash=known[0])
    with pytest.raises(CheckpointError, match="frozen parameters are not those of this run"):
        Run(first.saved).train(frozen_hash=known[1])
    Run(first.saved).train(frozen_hash=known[0])
    others = Batches(fingerprint="others", identity={"seed": 1})
    with pytest.raises(CheckpointError, match="the seed: was 0, is 1"):
        Run(first.saved).train(frozen_hash=known[0], source=others)


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: {},
        lambda saved: {**saved, "data": 3},
        lambda saved: {**saved, "progress": {"best": 1}},
        lambda saved: {**saved, "progress": None},
        lambda saved: {**saved, "data": {**saved["data"], "step": "x"}},
    ],
)
def test_a_position_that_is_damaged_is_named(monkeypatch, damage):
    first = stopped(monkeypatch, 2)
    assert first.saved is not None
    state, saved = first.saved
    with pytest.raises(CheckpointError, match="position of its newest checkpoint is damaged"):
        Run((state, damage(saved))).train()


def test_one_copy_is_spread_before_the_steps_and_taken_back_to_look_at_it():
    def spread(state: Any) -> Any:
        return SimpleNamespace(step=state.step[None])

    def gather(state: Any) -> Any:
        return SimpleNamespace(step=state.step[0])

    run = Run()
    result = run.train(spread=spread, gather=gather)
    assert result.state.step.shape == ()
    assert run.happened("save") == [("save", 7, 7.0)]
