"""Several processes on this machine: one run, one stop, one line that names who died."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import runs

# Compile quickly: what is compared ran through the same compiler.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("JAXDISTILL_P", "JAXDISTILL_C")) and name not in ("NPROC", "XLA_FLAGS")
}
ENVIRONMENT = {**CLEAN, "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
JAXDISTILL = [sys.executable, "-m", "jaxdistill"]
HEARTBEAT = 6


def start(
    *arguments: str, devices: int | None = None, launched: bool = True, **variables: str
) -> subprocess.Popen[str]:
    """Start `jaxdistill`, by `launch` as two processes or as it is."""
    size = [] if devices is None else ["--devices-per-process", str(devices)]
    launch = ["launch", "--local-processes", "2", *size, "--heartbeat-timeout", str(HEARTBEAT)]
    return subprocess.Popen(
        [*JAXDISTILL, *(launch if launched else []), *arguments],
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"it did not end: {output[-2000:]}")
    return process.returncode, output


def rows(workdir: Path, stage: str = "baseline") -> list[dict]:
    path = workdir / stage / "seed-0" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(workdir: Path, stage: str = "baseline") -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(workdir, stage) if "event" not in row}


def saved(workdir: Path) -> list[int]:
    folder = workdir / "baseline" / "seed-0" / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def toy(folder: Path, **sections) -> str:
    options = {
        "finetune": None,
        "data": {"buckets": 1, "cache": False},
        "train": {"steps": 50, "batch_size": 16, "learning_rate": 1e-3, "keep": "last"},
        "telemetry": {"log_every": 1, "progress": "none"},
        "parallel": {"data": -1, "compilation_cache": True},
    }
    for name, values in sections.items():
        options[name] = {**(options.get(name) or {}), **values}
    return runs.write_config(folder, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.mark.slow
def test_two_processes_train_as_one_does(config, tmp_path):
    """2 x 4 devices, sharded, packed, with a live teacher, against one device."""
    overrides = ["data.layout=pack", "teacher.precompute=false", "train.dropout=0"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    two = start(
        "run", config, "parallel.data=2", "parallel.fsdp=4", *overrides, "--workdir", str(together),
        devices=4,
    )  # fmt: skip
    code, output = finished(two)
    assert code == 0, output
    shown = [line for line in output.splitlines() if line.startswith("[1] ")]
    assert all("Gloo" in line for line in shown), "process 0 tells what concerns all"
    one = start(
        "run", config, "parallel.data=1", *overrides, "--workdir", str(alone), launched=False
    )
    code, output = finished(one)
    assert code == 0, output
    for stage in ("baseline", "distill"):
        expected, got = losses(alone, stage), losses(together, stage)
        assert list(got) == list(expected) == list(range(1, 51))
        assert got == pytest.approx(expected, rel=2e-6), stage
    ours, theirs = (json.loads((each / "result.json").read_text()) for each in (together, alone))
    assert ours["student_distilled"]["values"] == theirs["student_distilled"]["values"]
    assert ours["environment"]["processes"] == 2
    exported = together / "export" / "student" / "model.safetensors"
    assert exported.stat().st_size == (alone / "export/student/model.safetensors").stat().st_size


def stop_one(config: str, workdir: Path, victim: int, number: signal.Signals, step: int):
    """Start two processes, send one of them a signal, and return how it ended."""
    process = start("distill", config, "--workdir", str(workdir), devices=1)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"launch  2 processes: (\d+) (\d+)\n", line)
    assert found is not None, line
    deadline = time.monotonic() + 200
    while max(losses(workdir), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int(found[1 + victim]), number)
    begun = time.monotonic()
    code, output = finished(process)
    for pid in (int(found[1]), int(found[2])):
        assert not Path(f"/proc/{pid}").exists()
    return code, output, time.monotonic() - begun


@pytest.mark.slow
def test_stopped_killed_and_started_again(tmp_path):
    """A run is stopped at one process, then loses that one, then the other; it always goes on."""
    config = toy(
        tmp_path,
        train={"steps": 4000},
        checkpoint={"every": 10, "keep_last": 2, "keep_best": False},
    )
    workdir = tmp_path / "work"
    code, output, seconds = stop_one(config, workdir, 1, signal.SIGTERM, step=12)
    assert code == 75, output
    assert seconds < 10
    stopped = re.findall(r"stopped after step (\d+) of 4000", output)
    assert len(stopped) == 2
    assert stopped[0] == stopped[1]
    assert saved(workdir)[-1] == int(stopped[0]) == max(losses(workdir))

    step = max(losses(workdir)) + 15
    code, output, seconds = stop_one(config, workdir, 1, signal.SIGKILL, step)
    assert code == 128 + signal.SIGKILL, output
    assert re.search(r"^error: process 1 \(on .*\) was not heard of for .*: dead", output, re.M)
    assert seconds < HEARTBEAT + 1
    resumed = min(step for step in losses(workdir) if step > int(stopped[0]))
    assert resumed == int(stopped[0]) + 1

    last = saved(workdir)[-1]
    assert last > int(stopped[0])
    code, output, seconds = stop_one(config, workdir, 0, signal.SIGKILL, max(losses(workdir)) + 5)
    assert code == 128 + signal.SIGKILL, output
    assert re.search(r"^\[1\] error: process 0 \(on .*\), which coordinates .* died", output, re.M)
    assert seconds < HEARTBEAT
    assert list(losses(workdir)) == list(range(1, max(losses(workdir)) + 1))


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_its_code_and_its_line(tmp_path):
    config = toy(tmp_path, train={"batch_size": 6})
    code, output = finished(start("run", config, "--workdir", str(tmp_path / "w"), devices=2))
    assert code == 2, output
    assert "error: train.batch_size: got 6, expected a multiple of" in output
    assert "launch  process" in output


def test_a_missing_process_is_named(config, tmp_path):
    where = ["--coordinator", "127.0.0.1:1", "--processes", "3", "--process-id", "1"]
    process = start(
        "run", config, "--workdir", str(tmp_path / "w"), *where, "--initialization-timeout", "0.5",
        launched=False,
    )  # fmt: skip
    code, output = finished(process)
    assert code == 76
    assert "error: processes: process 0 did not answer process 1 at 127.0.0.1:1" in output
