"""All processes meet at the coordinator's port before jax starts there, so that absence is named.

jax ends a process whose peers do not come without saying which of them were missing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Sequence

from jaxdistill.errors import ProcessError
from jaxdistill.types import Json

_RETRY_SECONDS = 0.1
_GREETING = "jaxdistill"


def meet(
    coordinator: str, *, processes: int, process_id: int, seconds: float, bind: str | None = None
) -> list[str]:
    """Wait until all processes have come to process 0; return the host of each.

    Args:
      coordinator: HOST:PORT of process 0; its port is free again afterwards.
      processes: how many there are.
      process_id: which of them this is.
      seconds: how long to wait.
      bind: HOST:PORT that process 0 listens at; every address of its host by default.

    Raises:
      ProcessError: some did not come, or two have one number; it names them.
    """
    deadline = time.monotonic() + seconds
    if process_id == 0:
        return _receive(coordinator, bind, processes, seconds, deadline)
    return _report(coordinator, processes, process_id, seconds, deadline)


def name_processes(indices: Sequence[int]) -> str:
    """Name processes by number: `process 1`, or `processes 1, 3 and 9 others`."""
    shown = [str(index) for index in indices[:8]]
    rest = len(indices) - len(shown)
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(shown)}" + (
        f" and {rest} others" if rest else ""
    )


def _receive(
    coordinator: str, bind: str | None, processes: int, seconds: float, deadline: float
) -> list[str]:
    hosts: dict[int, str] = {0: socket.gethostname()}
    guests: list[socket.socket] = []
    fault: str | None = None
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(bind or f":{coordinator.rpartition(':')[2]}"))
        while len(hosts) < processes and fault is None:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            listener.settimeout(min(left, 1.0))
            try:
                guest, address = listener.accept()
            except TimeoutError:
                continue
            stack.enter_context(guest)
            message = _read(guest, min(5.0, max(left, 0.1)))
            if message is None or message.get("greeting") != _GREETING:
                continue  # Not one of ours: a port scan, or a health check.
            index, host = int(message["process_id"]), str(message["host"])
            guests.append(guest)
            if message["processes"] != processes:
                fault = (
                    f"process {index} (on {host}) was told of {message['processes']} processes, "
                    f"process 0 of {processes}; start all with the same --processes"
                )
            elif index in hosts:
                fault = (
                    f"two processes have --process-id {index} (on {hosts[index]} and on {host} at "
                    f"{address[0]}), expected each of 0 to {processes - 1} once"
                )
            hosts[index] = host
        missing = [index for index in range(processes) if index not in hosts]
        if fault is None and missing:
            fault = (
                f"{name_processes(missing)} of {processes} did not come to {coordinator} within "
                f"{seconds:g} s; look at what they print, or raise --initialization-timeout"
            )
        listed = [hosts.get(index, "") for index in range(processes)]
        for guest in guests:
            with contextlib.suppress(OSError):
                guest.sendall(json.dumps({"fault": fault, "hosts": listed}).encode() + b"\n")
        for guest in guests:
            # Who closes first keeps the port busy: let it be the guest.
            with contextlib.suppress(OSError):
                guest.settimeout(2.0)
                guest.recv(1)
    if fault is not None:
        raise ProcessError(f"processes: {fault}")
    return listed


def _report(
    coordinator: str, processes: int, process_id: int, seconds: float, deadline: float
) -> list[str]:
    host, _, port = coordinator.rpartition(":")
    message = {
        "greeting": _GREETING,
        "process_id": process_id,
        "processes": processes,
        "host": socket.gethostname(),
    }
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), min(left, 5.0)) as guest:
                guest.sendall(json.dumps(message).encode() + b"\n")
                # Process 0 says at its own deadline who is missing.
                answer = _read(guest, left + 5.0)
        except OSError as error:
            reason, answer = error.strerror or str(error) or "no answer", None
        if answer is not None:
            if answer["fault"] is not None:
                raise ProcessError(f"processes: {answer['fault']}")
            return answer["hosts"]
        time.sleep(_RETRY_SECONDS)
    raise ProcessError(
        f"processes: process 0 did not answer process {process_id} at {coordinator} within "
        f"{seconds:g} s ({reason}); look whether it runs and the port is open, or raise "
        "--initialization-timeout"
    )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        if not host or host == "::":
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            return socket.create_server(
                ("", int(port)),
                family=family,
                dualstack_ipv6=family == socket.AF_INET6,
                backlog=1024,
            )
        return socket.create_server((host, int(port)), backlog=1024)
    except OSError as error:
        raise ProcessError(
            f"processes: process 0 cannot listen at {address} ({error.strerror}); "
            "give another port with --coordinator HOST:PORT"
        ) from None


def _read(guest: socket.socket, seconds: float) -> Json | None:
    """Read one line of JSON; None for anything else."""
    deadline = time.monotonic() + seconds
    line = b""
    try:
        while not line.endswith(b"\n"):
            guest.settimeout(max(deadline - time.monotonic(), 0.01))
            part = guest.recv(65536)
            if not part or len(line) > 1 << 22:
                return None
            line += part
        found = json.loads(line)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
