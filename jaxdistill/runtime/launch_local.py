"""A real run of several processes on one machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from jaxdistill.errors import ConfigError
from jaxdistill.runtime.settings import ProcessSettings, to_environment

_KILL_SECONDS = 10.0
_DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+\s*")


def launch(
    command: Sequence[str],
    *,
    processes: int,
    devices: int | None = None,
    heartbeat_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a `jaxdistill` command as several processes and wait for all of them.

    The output of process 0 is left as it is; that of the others has their number before each line.
    SIGTERM and SIGINT are passed on to all. Where one fails, the others may end by themselves, and
    are ended otherwise.

    Args:
      command: the arguments of `jaxdistill`.
      processes: how many.
      devices: number of each process's GPUs where there are any, else of virtual CPU devices.
      heartbeat_seconds: silence after which a process counts as lost, see `ProcessSettings`.
      environment: variables of the processes; this one's by default.

    Returns:
      The exit code of the first process that failed (128 + N where signal N ended it), else 0.

    Raises:
      ConfigError: more GPUs are asked for than there are.
    """
    before = dict(os.environ if environment is None else environment)
    before.update(_device_environment(before, devices))
    coordinator = f"127.0.0.1:{free_port()}"
    children: list[subprocess.Popen[str]] = []
    pumps: list[threading.Thread] = []
    with _passing_on(children):
        try:
            for index in range(processes):
                settings = ProcessSettings(coordinator, processes, index)
                own = {
                    **to_environment(settings),
                    **before,  # Time-outs of the user's environment win, addresses do not.
                    "JAXDISTILL_COORDINATOR": coordinator,
                    "JAXDISTILL_PROCESSES": str(processes),
                    "JAXDISTILL_PROCESS_ID": str(index),
                    "JAX_COORDINATOR_BIND_ADDRESS": coordinator,
                    "JAXDISTILL_LAUNCHED": "1",
                    **_gpus_of(before, index, devices),
                }
                if heartbeat_seconds is not None:
                    own["JAXDISTILL_HEARTBEAT_SECONDS"] = str(heartbeat_seconds)
                child, pump = _start(command, own, index)
                children.append(child)
                pumps += pump
            pids = " ".join(str(child.pid) for child in children)
            print(f"launch  {processes} processes: {pids}", file=sys.stderr, flush=True)
            patience = (heartbeat_seconds or ProcessSettings.heartbeat_seconds) + _KILL_SECONDS
            code = _wait(children, patience)
        finally:
            _end(children)
            for pump in pumps:
                pump.join(5.0)
    return code


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _start(
    command: Sequence[str], environment: Mapping[str, str], index: int
) -> tuple[subprocess.Popen[str], list[threading.Thread]]:
    piped = None if index == 0 else subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-m", "jaxdistill", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=piped,
        stderr=piped,
        text=True,
        errors="replace",
        start_new_session=True,  # An interrupt of the terminal reaches it once, passed on.
    )
    pairs = ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    pumps = [
        threading.Thread(target=_pump, args=(source, sink, f"[{index}] "), daemon=True)
        for source, sink in pairs
        if source is not None
    ]
    for pump in pumps:
        pump.start()
    return child, pumps


def _pump(source: IO[str], sink: IO[str], prefix: str) -> None:
    for line in source:
        sink.write(prefix + line.rstrip("\n") + "\n")
        sink.flush()


@contextlib.contextmanager
def _passing_on(children: Sequence[subprocess.Popen[str]]):
    def send(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = {number: signal.signal(number, send) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[str]], patience: float) -> int:
    """Wait for all; return the first code that is not 0."""
    code, reported = 0, set()
    deadline: float | None = None
    while len(reported) < len(children):
        for index, child in enumerate(children):
            ended = child.poll()
            if ended is None or index in reported:
                continue
            reported.add(index)
            if ended == 0 or code:
                continue
            code = ended if ended > 0 else 128 - ended
            deadline = time.monotonic() + patience
            how = (
                f"was ended by {signal.Signals(-ended).name}"
                if ended < 0
                else f"ended with {ended}"
            )
            print(f"launch  process {index} {how}", file=sys.stderr, flush=True)
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return code


def _end(children: Sequence[subprocess.Popen[str]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [child for child in children if child.poll() is None]
        for child in left:
            child.send_signal(number)
        deadline = time.monotonic() + _KILL_SECONDS
        for child in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(deadline - time.monotonic(), 0.01))


def _device_environment(environment: Mapping[str, str], devices: int | None) -> dict[str, str]:
    """Return what makes virtual CPU devices, where no GPU is used."""
    if devices is None or _visible_gpus(environment):
        return {}
    flags = _DEVICES.sub("", environment.get("XLA_FLAGS", ""))
    return {
        "JAX_PLATFORMS": environment.get("JAX_PLATFORMS", "cpu"),
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip(),
    }


def _gpus_of(environment: Mapping[str, str], index: int, devices: int | None) -> dict[str, str]:
    gpus = _visible_gpus(environment)
    if devices is None or not gpus:
        return {}
    own = gpus[index * devices : (index + 1) * devices]
    if len(own) < devices:
        raise ConfigError(
            f"--devices-per-process: got {devices}, but process {index} would need GPUs "
            f"{index * devices} to {(index + 1) * devices - 1} and there are {len(gpus)}; "
            "ask for fewer, or set JAX_PLATFORMS=cpu for virtual devices"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def _visible_gpus(environment: Mapping[str, str]) -> list[str]:
    if environment.get("JAX_PLATFORMS", "").split(",")[0] in ("cpu", "tpu"):
        return []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)
