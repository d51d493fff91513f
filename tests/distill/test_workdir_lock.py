"""A second run in a work directory is refused, and a dead one leaves nothing behind."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdistill.distill import workdir_lock
from jaxdistill.errors import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from jaxdistill.distill import workdir_lock
with workdir_lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def taken(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught, workdir_lock.held(folder):
        pass
    return str(caught.value)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_lock_names_its_holder_and_dies_with_it(holder, tmp_path, number):
    message = taken(tmp_path)
    assert f"process {holder.pid} on {socket.gethostname()}, since 20" in message
    assert "give another one with --workdir" in message
    holder.send_signal(number)
    holder.wait()
    with workdir_lock.held(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


def test_two_runs_of_one_process_and_two_folders(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with workdir_lock.held(tmp_path), workdir_lock.held(other):
        assert str(os.getpid()) in taken(tmp_path)
        link = tmp_path / "link"
        link.symlink_to(other)
        assert str(os.getpid()) in taken(link)
    with pytest.raises(RuntimeError, match="mine"), workdir_lock.held(tmp_path):
        raise RuntimeError("mine")
    with workdir_lock.held(tmp_path):
        (tmp_path / ".lock").write_text("{")
        assert "a process that has just started" in taken(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(workdir_lock.fcntl, "flock", refuse)
    with workdir_lock.held(tmp_path):
        pass
    assert capsys.readouterr().err.count("start no second run in it") == 1


def test_a_system_without_locks_is_said_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lock, "fcntl", None)
    with workdir_lock.held(tmp_path):
        pass
    assert "this system has no locks" in capsys.readouterr().err


def test_only_process_0_of_several_takes_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(workdir_lock.group, "once", lambda name, work: asked.append(name))
    with workdir_lock.held(tmp_path):
        assert not (tmp_path / ".lock").exists()
    assert asked == ["lock"]
