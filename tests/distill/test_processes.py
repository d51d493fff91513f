"""Several processes on this machine: one run, one stop, one line that names who died."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import runs, texts

from jaxdistill.config.load import load_config
from jaxdistill.distill import models as build
from jaxdistill.distill import stages as pipeline
from jaxdistill.distill import texts_stage
from jaxdistill.models.registry import save_model
from jaxdistill.runtime.launch_local import free_port
from jaxdistill.runtime.settings import ProcessSettings, to_environment

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
STEPS = 50


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


def rows(workdir: Path, stage: str) -> list[dict]:
    folder = workdir / stage
    path = (folder if stage == "finetune" else folder / "seed-0") / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(workdir: Path, stage: str) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(workdir, stage) if "event" not in row}


def saved(workdir: Path) -> list[int]:
    folder = workdir / "finetune" / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def toy(folder: Path, **sections) -> str:
    options = {
        "finetune": None,
        "data": {"buckets": 1, "cache": False, "eval_batch_size": 48},
        "train": {"steps": STEPS, "batch_size": 16, "learning_rate": 1e-3, "keep": "last"},
        "telemetry": {"log_every": 1, "progress": "none"},
        "parallel": {"data": -1, "compilation_cache": True},
    }
    for name, values in sections.items():
        options[name] = {**(options.get(name) or {}), **values}
    return runs.write_config(folder, **options)


def toy_texts(folder: Path) -> str:
    """A language model's run over packed rows."""
    values = texts.values(texts.write_corpus(folder / "corpus"), seeds=[0])
    values["train"] |= {"steps": STEPS, "learning_rate": 1e-3, "keep": "last"}
    values["telemetry"]["log_every"] = 1
    path = folder / "texts.yaml"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sizes", "stages"),
    [
        (
            toy,
            ["teacher.precompute=false", "parallel.data=2", "parallel.fsdp=4"],
            ["baseline", "distill"],
        ),
        (toy_texts, ["parallel.data=1", "parallel.fsdp=4", "parallel.tensor=2"], ["distill"]),
    ],
    ids=["encoder", "decoder"],
)
def test_two_processes_train_as_one_device_does(make, sizes, stages, tmp_path):
    """2 x 4 devices, parameters shared, with a live teacher; then all stages that follow."""
    config = make(tmp_path)
    layout = [value for value in sizes if value.startswith("parallel")]
    same = [value for value in sizes if value not in layout] + ["train.dropout=0"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    one = load_config(config, ["parallel.data=1", "parallel.compilation_cache=false", *same])
    # Both learn from the same teacher.
    pipeline.run(one, alone, until="finetune" if "baseline" in stages else "baseline")
    shutil.copytree(alone, together)
    process = start("run", config, *layout, *same, "--workdir", str(together), devices=4)
    pipeline.run(one, alone, until="distill")
    code, output = finished(process)
    assert code == 0, output
    for stage in stages:
        expected, got = losses(alone, stage), losses(together, stage)
        assert list(got) == list(expected) == list(range(1, STEPS + 1))
        assert got == pytest.approx(expected, rel=2e-6), stage
    # Process 0 speaks for both. What C++ prints, line by line or over each other, is not ours.
    words = r"(?:info|doctor|finetune|baseline|distill|evaluate|export)\b"
    assert [line for line in output.splitlines() if re.match(words, line)]
    assert not [line for line in output.splitlines() if re.match(rf"\[1\] {words}", line)]
    result = json.loads((together / "result.json").read_text())
    assert result["environment"]["processes"] == 2
    assert (together / "report.html").is_file()
    names = {path.name for path in (together / "export" / "student").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names


@pytest.mark.slow
def test_two_processes_write_the_texts_of_one(tmp_path):
    """Rows over both, the teacher's parameters shared; process 0 has the file."""
    config = toy_texts(tmp_path)
    teacher = tmp_path / "teacher"
    untrained = load_config(config)
    dataset = build.load_data(untrained, tmp_path / "data")
    model = build.load_teacher(untrained, dataset, training=True, seed=0)
    save_model(teacher, model, tokenizer_from=dataset.tokenizer)
    wanted = ["finetune=null", f"teacher.model={teacher}", f"data.tokenizer={teacher}"]
    wanted += ["generate.prompt_tokens=8", "generate.batch_size=8"]
    layout = ["parallel.data=2", "parallel.fsdp=2", "parallel.tensor=2"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    process = start("generate", config, *wanted, *layout, "--workdir", str(together), devices=4)
    result = texts_stage.write(load_config(config, wanted), alone, alone / "texts.jsonl")
    code, output = finished(process)
    assert code == 0, output
    assert f"{result['texts']:,} texts" in output
    lines = (alone / "texts.jsonl").read_text().splitlines()
    assert len(lines) == result["texts"] > 8
    assert (together / "texts.jsonl").read_text().splitlines() == lines


def stop_one(config: str, workdir: Path, victim: int, number: signal.Signals, step: int):
    """Start two processes, send one of them a signal, and return how that ended."""
    process = start("finetune", config, "--workdir", str(workdir), devices=1)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"launch  2 processes: (\d+) (\d+)\n", line)
    assert found is not None, line
    deadline = time.monotonic() + 200
    while max(losses(workdir, "finetune"), default=0) < step or not saved(workdir):
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
def test_killed_then_started_again_then_stopped(tmp_path):
    config = toy(
        tmp_path,
        finetune={"steps": 4000, "batch_size": 16, "keep": "last", "evaluate_every": 4000},
        checkpoint={"every": 10, "keep_last": 2, "keep_best": False},
    )
    workdir = tmp_path / "work"
    code, output, seconds = stop_one(config, workdir, 1, signal.SIGKILL, step=12)
    assert code == 128 + signal.SIGKILL, output
    assert re.search(r"^error: process 1 \(on .*\) was not heard of for .*: dead", output, re.M)
    assert seconds < HEARTBEAT + 1
    left, last = max(losses(workdir, "finetune")), saved(workdir)[-1]
    assert 10 <= last <= left

    code, output, seconds = stop_one(config, workdir, 1, signal.SIGTERM, step=left + 3)
    assert code == 75, output
    assert seconds < 10
    stopped = re.findall(r"stopped after step (\d+) of 4000", output)
    assert len(stopped) == 2
    assert stopped[0] == stopped[1]
    assert saved(workdir)[-1] == int(stopped[0]) == max(losses(workdir, "finetune"))
    assert list(losses(workdir, "finetune")) == list(range(1, int(stopped[0]) + 1))


JOINED = """
import sys, time
from jaxdistill.runtime import group as processes
processes.start()
assert processes.everyone("names", f"{processes.index()}!") == ["0!", "1!"]
assert processes.first("sum", lambda: [processes.index(), 1]) == [0, 1]
print("joined", flush=True)
"""


def join_two(first: str, second: str) -> list[subprocess.Popen[str]]:
    """Start two bare processes that do something once they have joined."""
    coordinator = f"127.0.0.1:{free_port()}"
    children = []
    for index, body in enumerate((first, second)):
        settings = ProcessSettings(coordinator, 2, index, heartbeat_seconds=5)
        own = {**to_environment(settings), "JAX_COORDINATOR_BIND_ADDRESS": coordinator}
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", JOINED + body],
                env={**ENVIRONMENT, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for child in children:
        assert child.stdout is not None
        lines = iter(child.stdout.readline, "")
        assert any(line == "joined\n" for line in lines), child.communicate()
    return children


@pytest.mark.slow
def test_the_death_of_the_coordinator_is_named_and_so_is_what_one_process_fails_at():
    first, second = join_two("time.sleep(60)", "time.sleep(60)")
    first.kill()
    begun = time.monotonic()
    code, output = finished(second)
    assert code == 76
    assert re.search(r"^error: process 0 \(on .*\), which coordinates .* has died", output, re.M)
    assert time.monotonic() - begun < 5
    first.communicate()
    first, second = join_two("processes.barrier('never')", "processes.leave(2)")
    assert finished(second)[0] == 2
    code, output = finished(first)
    assert code == 76
    assert re.search(r"^error: process 1 \(on .*\) ended with exit code 2", output, re.M)
    first, second = join_two("processes.leave(0)", "time.sleep(1); processes.leave(0)")
    assert [finished(first)[0], finished(second)[0]] == [0, 0]


@pytest.mark.slow
def test_a_missing_process_is_named(tmp_path):
    where = ["--coordinator", "127.0.0.1:1", "--processes", "3", "--process-id", "1"]
    config = toy(tmp_path)
    process = start(
        "run", config, "--workdir", str(tmp_path / "w"), *where, "--initialization-timeout", "0.5",
        launched=False,
    )  # fmt: skip
    code, output = finished(process)
    assert code == 76
    assert "error: processes: process 0 did not answer process 1 at 127.0.0.1:1" in output
