"""Several processes of one run: how they start, decide and wait for each other, and end."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from jaxdistill import errors
from jaxdistill.errors import ConfigError, JaxDistillError
from jaxdistill.runtime import preemption
from jaxdistill.runtime.consensus import Agreement
from jaxdistill.runtime.heartbeat import Watcher, explain_abort, let_abort
from jaxdistill.runtime.kv_store import Board, CoordinatorBoard
from jaxdistill.runtime.rendezvous import meet
from jaxdistill.runtime.settings import ProcessSettings, from_environment

log = logging.getLogger("jaxdistill")
T = TypeVar("T")

SAVE = Agreement("save", lasting=False)
"""Asked by a process whose clock says that a checkpoint is due."""

_POLL_SECONDS = (0.005, 0.25)


class _Group:
    """The processes of this run, once they have started."""

    def __init__(self) -> None:
        self.index, self.count = 0, 1
        self.board: Board | None = None
        self.watcher: Watcher | None = None
        self.settings = ProcessSettings()
        self.numbers = itertools.count()
        self.alone = 0


_group = _Group()


def index() -> int:
    """Return the number of this process, from 0."""
    return _group.index


def count() -> int:
    """Return how many processes the run has."""
    return _group.count


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run, where the environment or a cluster tells of any.

    Everything is taken from `JAXDISTILL_COORDINATOR`, `_PROCESSES` and `_PROCESS_ID`, else from
    what jax finds out on Cloud TPU, GKE, SLURM and Open MPI. Call it before anything else of jax.

    Raises:
      ConfigError: only a part was given.
      ProcessError: others did not come in time; it names them.
    """
    settings = from_environment(environment)
    if settings.alone or _group.board is not None:
        return
    explicit = settings.explicit
    local_devices: Any = None
    coordinator, processes, process_id = (
        settings.coordinator,
        settings.processes,
        settings.process_id,
    )
    if not explicit:
        found = _cluster(environment, settings)
        if found is None:
            return
        coordinator, processes, process_id, local_devices = found
    assert coordinator is not None
    assert processes is not None
    assert process_id is not None
    if processes == 1:
        return
    bind = environment.get("JAX_COORDINATOR_BIND_ADDRESS")
    begun = time.monotonic()
    hosts = meet(
        coordinator,
        processes=processes,
        process_id=process_id,
        seconds=settings.initialization_seconds,
        bind=bind,
    )
    explain_abort(lambda: _explanation(coordinator, hosts[0]))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Ours is heard first, and names who is silent.
    jax_heartbeat = int(2 * settings.heartbeat_seconds + 10)
    left = settings.initialization_seconds - (time.monotonic() - begun)
    jax.distributed.initialize(
        coordinator,
        processes,
        process_id,
        local_device_ids=local_devices,
        cluster_detection_method="deactivate" if explicit else None,
        initialization_timeout=max(int(left), 10),
        heartbeat_timeout_seconds=jax_heartbeat,
        shutdown_timeout_seconds=max(int(settings.shutdown_seconds), 1),
    )
    # jax has just taken SIGTERM for a notice that nobody polls for.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    _group.index, _group.count, _group.settings = process_id, processes, settings
    board = CoordinatorBoard(_client())
    _group.board = board
    agreements = (preemption.STOP, SAVE)
    for agreement in agreements:
        agreement.among_several()
    launched = "JAXDISTILL_LAUNCHED" in environment
    _group.watcher = Watcher(
        board,
        process_id,
        hosts,
        heartbeat_seconds=settings.heartbeat_seconds,
        agreements=agreements,
        orphaned=preemption.STOP.ask if launched else lambda: None,
    )
    _group.watcher.start()
    # The devices become known to all at once. Left to whoever asks first, process 0 might ask while
    # the others wait for it.
    jax.devices()
    if process_id != 0:
        log.setLevel(logging.ERROR)  # Process 0 tells what concerns all.


def leave(code: int) -> None:
    """Part from the other processes before this one exits with `code`.

    After success, or a stop that all agreed on, it waits for the others. Otherwise it tells them
    and ends the process at once, since what they do together can no longer finish.
    """
    watcher = _group.watcher
    if watcher is None:
        return
    let_abort()
    if code in (0, errors.Preempted.exit_code):
        watcher.stop()
        if _group.index == 0:
            _wait_until(lambda: len(watcher.gone()) == _group.count, 10.0)
        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()
        return
    with contextlib.suppress(RuntimeError):
        watcher.report(_group.index, f"ended with exit code {code}")
        watcher.stop()
        if _group.index == 0:
            # Its end takes the board with it: let the others read first.
            _wait_until(lambda: len(watcher.gone()) == _group.count, 6.0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def await_blame(error: BaseException) -> None:
    """Wait until it is known who died, where a collective failed for want of a peer.

    The process ends there, with a line that names the dead. Returns where nobody did.
    """
    watcher = _group.watcher
    lost = ("gloo", "nccl", "connection closed", "unavailable", "socket closed")
    if watcher is None or not any(word in str(error).lower() for word in lost):
        return
    print("error: the connection to another process is lost; finding out which", file=sys.stderr)
    time.sleep(_group.settings.heartbeat_seconds + 5)


def first(name: str, work: Callable[[], T]) -> T:
    """Let process 0 do `work`, while the others wait; return to all what it returned.

    What it returns has to fit into JSON. An error that a user can cause is raised on all.
    """
    if _group.board is None or _group.alone:
        return work()
    key = f"first/{next(_group.numbers)}/{name}"
    if _group.index == 0:
        try:
            with alone():
                result = work()
            _group.board.put(key, json.dumps({"result": result}))
        except JaxDistillError as error:
            report = {"kind": type(error).__name__, "message": str(error)}
            _group.board.put(key, json.dumps({"error": report}))
            raise
        return result
    answer = json.loads(_wait_for(_group.board, key))
    if "error" in answer:
        kind = getattr(errors, answer["error"]["kind"], JaxDistillError)
        raise kind(answer["error"]["message"])
    return answer["result"]


def once(name: str, work: Callable[[], object]) -> None:
    """Let process 0 do `work`, such as writing a file, while the others wait."""

    def silently() -> None:
        work()

    first(name, silently)


def decide(name: str, question: Callable[[], bool]) -> bool:
    """Answer a question about files as process 0 sees them, so that all go the same way."""
    return first(name, lambda: bool(question()))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is done inside is not done by the others, so nothing in it waits for them."""
    _group.alone += 1
    try:
        yield
    finally:
        _group.alone -= 1


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    everyone(name, "")


def everyone(name: str, text: str) -> list[str]:
    """Return what every process says, in their order, once all have."""
    board = _group.board
    if board is None or _group.alone:
        return [text]
    key = f"{next(_group.numbers)}/{name}"
    board.put(f"said/{key}/{_group.index}", text)
    if _group.index == 0:
        answers: dict[str, str] = {}

        def complete() -> bool:
            answers.update(board.under(f"said/{key}"))
            return len(answers) == _group.count

        _wait_until(complete)
        board.put(f"all/{key}", json.dumps([answers[str(each)] for each in range(_group.count)]))
    return json.loads(_wait_for(board, f"all/{key}"))


def in_turn(name: str, work: Callable[[], T]) -> T:
    """Let process 0 do `work` before the others do it, who find what it left on disk.

    An error that a user can cause is raised on all.
    """
    if _group.board is None or _group.alone:
        return work()
    kept: list[T] = []
    first(name, lambda: kept.append(work()))
    if not kept:
        with alone():
            kept.append(work())
    return kept[0]


def _explanation(coordinator: str, host: str) -> str | None:
    """Say why jax ends this process from C++, where it is because of another one."""
    watcher = _group.watcher
    if watcher is not None and watcher.verdict is not None:
        return watcher.verdict
    if _group.index == 0:
        return None
    name, _, port = coordinator.rpartition(":")
    try:
        socket.create_connection((name.strip("[]"), int(port)), 2.0).close()
    except OSError:
        return f"process 0 (on {host}), which coordinates the others, has died"
    return None


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _cluster(environment: Mapping[str, str], settings: ProcessSettings) -> Any:
    """Return coordinator, processes, process and its devices as a cluster says, or None."""
    if environment.get("SLURM_NTASKS") == "1" or environment.get("OMPI_COMM_WORLD_SIZE") == "1":
        return None
    from jax._src import clusters

    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(settings.initialization_seconds)
    )
    if found[0] is not None:
        return found
    if "OMPI_COMM_WORLD_RANK" in environment:
        raise ConfigError(
            "--coordinator: got nothing, expected it beside an Open MPI that does not say where "
            "process 0 is; give --coordinator HOST:PORT --processes $OMPI_COMM_WORLD_SIZE "
            "--process-id $OMPI_COMM_WORLD_RANK"
        )
    return None


def _wait_for(board: Board, key: str) -> str:
    found: list[str] = []

    def there() -> bool:
        text = board.get(key)
        if text is not None:
            found.append(text)
        return bool(found)

    _wait_until(there)
    return found[0]


def _wait_until(condition: Callable[[], bool], seconds: float | None = None) -> None:
    """Ask again and again, so that signals are heard and the watcher can end the wait."""
    shortest, longest = _POLL_SECONDS
    pause, end = shortest, None if seconds is None else time.monotonic() + seconds
    while not condition():
        if end is not None and time.monotonic() > end:
            return
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
