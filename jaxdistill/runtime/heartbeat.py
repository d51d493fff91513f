"""A thread per process that says it lives, notices who does not, and ends the run by name."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from jaxdistill.errors import ProcessError
from jaxdistill.runtime.consensus import Agreement
from jaxdistill.runtime.kv_store import Board

_SILENCE = 0.7
"""Share of the heartbeat time-out after which a silent process counts as dead."""
_GRACE_SECONDS = 3.0
"""For an error that all processes meet: each reports its error, instead of that of another."""


class Watcher:
    """Looks after the other processes, as process 0 sees them.

    Args:
      board: shared by the processes.
      index: this process.
      hosts: the host of each process.
      heartbeat_seconds: a process that is silent for this long ends the run.
      agreements: settled here.
      orphaned: called when the process that launched this one has gone.
      end: what ends this process, given one line that names who is to blame.
    """

    def __init__(
        self,
        board: Board,
        index: int,
        hosts: Sequence[str],
        *,
        heartbeat_seconds: float,
        agreements: Sequence[Agreement] = (),
        orphaned: Callable[[], None] = lambda: None,
        end: Callable[[str], object] | None = None,
    ) -> None:
        self._board, self._index, self._hosts = board, index, hosts
        self._patience = _SILENCE * heartbeat_seconds
        self._interval = min(max(heartbeat_seconds / 20, 0.1), 0.5)
        self._agreements = agreements
        self._orphaned = orphaned
        self._end = end_process if end is None else end
        self._parent = os.getppid()
        self._beats = 0
        now = time.monotonic()
        self._heard = [("", now) for _ in hosts]
        self._answered = now
        self._blamed: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jaxdistill-watch", daemon=True)
        self.verdict: str | None = None

    def start(self) -> None:
        """Watch from another thread."""
        self._board.put(f"alive/{self._index}", "0")
        self._thread.start()

    def stop(self) -> None:
        """Say that this process has gone on purpose, and watch no longer."""
        self._stop.set()
        self._thread.join(5.0)
        with contextlib.suppress(Exception):
            self._board.put(f"gone/{self._index}", "")

    def report(self, index: int, what: str, *, grace: float = _GRACE_SECONDS) -> None:
        """Tell all what ended a process; they wait for `grace` seconds before they end, too."""
        self._board.put("ended", json.dumps([index, what, grace]))

    def gone(self) -> set[int]:
        """Return who has gone on purpose."""
        return {int(name) for name in self._board.under("gone")}

    def name(self, index: int) -> str:
        """Name a process and where it runs."""
        return f"process {index} (on {self._hosts[index]})"

    def tick(self) -> bool:
        """Say that this process lives and look after the others; false once one is to blame."""
        now = time.monotonic()
        if os.getppid() != self._parent:
            self._orphaned()
        try:
            self._beats += 1
            self._board.put(f"alive/{self._index}", str(self._beats))
            ended = self._board.get("ended")
            # Process 0 looks after all, and all look after process 0.
            alive = self._board.under("alive") if self._index == 0 else self._of_first()
            self._answered = time.monotonic()
        except RuntimeError:
            if now - self._answered > self._patience:
                self._blame(0, f"was not heard of for {now - self._answered:.0f} s")
            return self.verdict is None
        for name, beat in alive.items():
            if beat != self._heard[int(name)][0]:
                self._heard[int(name)] = beat, now
        if ended is not None:
            index, what, grace = json.loads(ended)
            since = self._blamed.setdefault(ended, now)
            if index != self._index and now - since >= grace:
                self._blame(index, what)
        watched = range(len(self._hosts)) if self._index == 0 else (0,)
        silent = [
            other
            for other in watched
            if other != self._index and now - self._heard[other][1] > self._patience
        ]
        for other in sorted(set(silent) - self.gone()) if silent else ():
            self._blame(other, f"was not heard of for {now - self._heard[other][1]:.1f} s: dead")
        return self.verdict is None

    def _of_first(self) -> dict[str, str]:
        beat = self._board.get("alive/0")
        return {} if beat is None else {"0": beat}

    def _blame(self, index: int, what: str) -> None:
        if self.verdict is not None:
            return
        self.verdict = f"{self.name(index)} {what}"
        with contextlib.suppress(Exception):
            others = set(range(len(self._hosts))) - {self._index, index} - self.gone()
            if self._index == 0 and others:
                # They read it before this process takes the board with it.
                self.report(index, what, grace=0.0)
                time.sleep(2 * self._interval)
        self._end(self.verdict)

    def _breathe(self) -> bool:
        return self.tick() and not self._stop.is_set() and not self.gone()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.tick()
            for agreement in self._agreements:
                with contextlib.suppress(RuntimeError):
                    agreement.settle(
                        self._board, self._index, len(self._hosts), breathe=self._breathe
                    )


def end_process(reason: str) -> None:
    """End this process at once, without waiting for collectives that cannot finish."""
    line = f"error: {reason}; run the same command again to go on from the last checkpoint"
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        print(line, file=sys.stderr, flush=True)
    os._exit(ProcessError.exit_code)


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_kept: list[object] = []


def explain_abort(explain: Callable[[], str | None]) -> None:
    """Say who died where jax, which has lost the coordinator, ends the process from C++.

    jax leaves no other moment: it aborts as soon as the connection breaks, and the callback that it
    has for that cannot be written in Python. Where `explain` finds no reason, the abort goes on.
    """
    libc = ctypes.CDLL(None)

    def handle(_: int) -> None:
        libc.alarm(5)  # Should Python be unable to run here, the process ends all the same.
        if (reason := explain()) is not None:
            end_process(reason)

    handler = _HANDLER(handle)
    libc.signal.argtypes = [ctypes.c_int, _HANDLER]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)
    _kept.append(handler)


def let_abort() -> None:
    """Let an abort be an abort again."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    _kept.clear()
