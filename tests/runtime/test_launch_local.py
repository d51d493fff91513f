"""`launch` passes on output, signals and exit codes, and leaves nobody behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxdistill.cli import app as cli
from jaxdistill.errors import ConfigError
from jaxdistill.runtime import launch_local

CHILD = """
import os, signal, sys, time
index = int(os.environ["JAXDISTILL_PROCESS_ID"])
print("line of", index, flush=True)
print("told", index, file=sys.stderr, flush=True)
{body}
"""


@pytest.fixture
def run(monkeypatch, capfd):
    """Launch three processes of a few lines of Python in place of `jaxdistill`."""

    real = subprocess.Popen

    def run(body: str, **options):
        def popen(arguments, **settings):
            assert arguments[:3] == [sys.executable, "-m", "jaxdistill"]
            return real([sys.executable, "-c", CHILD.format(body=body)], **settings)

        monkeypatch.setattr(launch_local.subprocess, "Popen", popen)
        code = launch_local.launch(["run", "x"], processes=3, **options)
        return code, *capfd.readouterr()

    return run


def test_lines_of_all_but_the_first_have_their_number(run):
    code, out, err = run("")
    assert code == 0
    assert sorted(out.splitlines()) == ["[1] line of 1", "[2] line of 2", "line of 0"]
    assert {"[1] told 1", "[2] told 2", "told 0"} <= set(err.splitlines())


def test_the_first_code_that_is_not_zero_is_returned(run):
    code, _, err = run("time.sleep(0.3 * index); sys.exit((0, 7, 9)[index])")
    assert code == 7
    assert "launch  process 1 ended with 7" in err
    code, _, err = run(
        "time.sleep(0.2 * index); index == 2 and os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert code == 137
    assert "launch  process 2 was ended by SIGKILL" in err


def test_those_that_do_not_end_are_ended(run, monkeypatch):
    monkeypatch.setattr(launch_local, "_KILL_SECONDS", 0.5)
    begun = time.monotonic()
    ignores = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code, _, _ = run(f"{ignores}index == 1 and sys.exit(3); time.sleep(60)", heartbeat_seconds=0.5)
    assert code == 3
    assert time.monotonic() - begun < 15


def test_signals_reach_all(run):
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(30)"
    code, _, _ = run(body)
    assert code == 75


def test_where_processes_find_each_other_and_their_devices(run):
    body = (
        "names = ('COORDINATOR', 'PROCESSES', 'HEARTBEAT_SECONDS')\n"
        "print(*(os.environ['JAXDISTILL_' + name] for name in names), os.environ['XLA_FLAGS'])"
    )
    code, out, _ = run(
        body,
        devices=4,
        heartbeat_seconds=5,
        environment={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_dump_to=x"},
    )
    assert code == 0
    said = {line.removeprefix("[1] ").removeprefix("[2] ") for line in out.splitlines()}
    (line,) = [line for line in said if line.startswith("127.0.0.1:")]
    _, *rest = line.split()
    assert rest == ["3", "5", "--xla_dump_to=x", "--xla_force_host_platform_device_count=4"]


def test_gpus_are_dealt_out():
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_PLATFORMS": ""}
    assert launch_local._gpus_of(environment, 1, 2) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert launch_local._device_environment(environment, 2) == {}
    with pytest.raises(ConfigError, match="process 2 would need GPUs 4 to 5 and there are 4"):
        launch_local._gpus_of(environment, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch", "--local-processes", "2"], "launch: got nothing, expected a command"),
        (["launch", "run", "x.yaml"], "neither --local-processes N nor --print RECIPE"),
        (["launch", "--local-processes", "2", "--oops", "run"], "launch: got '--oops'"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(capsys, arguments, message):
    assert cli.call(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--coordinator", "--processes", "--process-id"])
def test_every_command_that_computes_takes_the_options(capsys, flag):
    for command in ("run", "distill", "cache"):
        assert cli.call([command, "--help"]) == 0
        assert flag in capsys.readouterr().out
