"""A run that is killed goes on as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import runs

from jaxdistill.cli.app import call
from jaxdistill.engine.telemetry import Telemetry

COMMAND = [sys.executable, "-c", "from jaxdistill.cli.app import main; main()", "distill"]
# Compiled as quickly as here, for one device: what is compared ran through the same compiler.
FLAGS = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
ENVIRONMENT = {**os.environ, "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
STEPS = 240


def start(config: str, workdir: Path) -> subprocess.Popen:
    """Start `jaxdistill distill` in a process of its own."""
    command = [*COMMAND, config, "--workdir", str(workdir)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def rows(workdir: Path) -> list[dict]:
    """Read the rows of the distillation written so far."""
    path = workdir / "distill" / "seed-0" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def before_distilling(whole: Path, folder: Path) -> Path:
    """Copy a finished run without its distillation."""
    ignored = shutil.ignore_patterns("distill")
    workdir = folder / "work"
    shutil.copytree(whole, workdir, ignore=ignored)
    return workdir


def stop_at(step: int, config: str, workdir: Path, number: signal.Signals) -> int:
    """Start a run, send it a signal once it has done `step`, and return its exit code."""
    process = start(config, workdir)
    while process.poll() is None:
        done = [row["step"] for row in rows(workdir) if "event" not in row]
        if done and done[-1] >= step:
            process.send_signal(number)
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0, f"the run ended before it could be stopped: {errors}"
    return process.returncode


def finish(config: str, workdir: Path) -> bytes:
    """Run to the end and return the student's file."""
    process = start(config, workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return (workdir / "distill" / "seed-0" / "model" / "model.safetensors").read_bytes()


def losses(workdir: Path) -> dict[int, float]:
    """Return the loss of every step; a step that was done twice must be there once."""
    training = [row for row in rows(workdir) if "event" not in row]
    by_step = {row["step"]: row["loss"] for row in training}
    assert len(by_step) == len(training)
    return by_step


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """A toy run with dropout, checkpoints that do not fall on epochs, and a row for every step."""
    return runs.write_config(
        tmp_path_factory.mktemp("toy"),
        data={"buckets": 1},
        train={"steps": STEPS, "batch_size": 16, "learning_rate": 1e-3, "keep": "last"},
        checkpoint={"every": 7},
        telemetry={"log_every": 1, "progress": "none"},
        parallel={"compilation_cache": True},
    )


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory) -> tuple[Path, bytes]:
    """The same run, never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "work"
    return workdir, finish(config, workdir)


@pytest.mark.slow
def test_killed_twice_and_asked_to_stop_ends_bitwise_equal(config, uninterrupted, tmp_path):
    whole, expected = uninterrupted
    first, second, third = sorted(random.sample(range(8, STEPS - 8, 8), 3))
    print(f"killed at steps {first} and {third}, asked to stop at {second}")
    workdir = before_distilling(whole, tmp_path)
    assert stop_at(first, config, workdir, signal.SIGKILL) == -signal.SIGKILL
    assert stop_at(second, config, workdir, signal.SIGTERM) == 75
    folder = workdir / "distill/seed-0/checkpoints"
    saved = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    assert max(saved) == rows(workdir)[-1]["step"]
    assert stop_at(third, config, workdir, signal.SIGKILL) == -signal.SIGKILL
    assert finish(config, workdir) == expected
    assert losses(workdir) == losses(whole)
    assert list(losses(workdir)) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_stopped_in_an_evaluation_goes_on_from_that_step(tmp_path, monkeypatch):
    """The step is saved, measured when the run goes on, and can be the best one."""
    sections = {"train": {"keep": "best"}, "telemetry": {"log_every": 1, "progress": "none"}}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = runs.write_config(tmp_path / "toy", **sections)
    assert call(["distill", config, "--workdir", str(whole)]) == 0
    shutil.copytree(whole, stopped, ignore=shutil.ignore_patterns("distill"))
    write = Telemetry.row

    def ask_to_stop(report: Telemetry, step: int, values: dict) -> None:
        write(report, step, values)
        if step == 6:  # The end of the first epoch: next comes its evaluation.
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Telemetry, "row", ask_to_stop)
        assert call(["distill", config, "--workdir", str(stopped)]) == 75
    checkpoints = stopped / "distill" / "seed-0" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["6"]
    assert call(["distill", config, "--workdir", str(stopped)]) == 0
    evaluations = [
        [(row["step"], row["loss"]) for row in rows(folder) if row.get("event") == "evaluation"]
        for folder in (whole, stopped)
    ]
    assert [step for step, _ in evaluations[0]] == [6, 12]
    assert evaluations[0] == evaluations[1]
    assert losses(whole) == losses(stopped)
    model = "distill/seed-0/model/model.safetensors"
    assert (whole / model).read_bytes() == (stopped / model).read_bytes()
