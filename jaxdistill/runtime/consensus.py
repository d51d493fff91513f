"""Acting at the same point on every process, without waiting for each other at every step.

All processes run the same program and so make the same polls in the same order. Once one asks, each
says how many polls it has made and holds its next one back until all have said so; the first poll
that none has made yet is where all act.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jaxdistill.runtime.kv_store import Board


class Agreement:
    """A poll that is answered with yes at the same call on all processes, once one has asked.

    Args:
      topic: name of the vote, the same on all processes.
      lasting: whether the answer stays yes, or is given once for each time it is asked for.
    """

    def __init__(self, topic: str, *, lasting: bool) -> None:
        self._topic, self._lasting = topic, lasting
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._alone = True
        self._polls = self._round = 0
        self._at: int | None = None

    def among_several(self) -> None:
        """From now on answer only what all processes agree on; `settle` has to be called."""
        self._alone = False

    def reset(self) -> None:
        """Forget what was asked, where nobody else could have heard it."""
        if self._alone:
            self._asked.clear()

    def ask(self) -> None:
        """Ask; may be called from a signal handler."""
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether this process knows that somebody asked; others may not know yet."""
        return self._asked.is_set()

    def poll(self) -> bool:
        """Return whether to act now; every process has to poll at the same points."""
        if self._alone:
            answer = self._asked.is_set()
            if answer and not self._lasting:
                self._asked.clear()
            return answer
        with self._lock:
            self._polls += 1
            if self._at is None or self._polls < self._at:
                return False
            if not self._lasting:
                self._at = None
                self._round += 1
                self._asked.clear()
            return True

    def settle(self, board: Board, index: int, count: int, *, breathe: Callable[[], bool]) -> None:
        """Agree on where to act if anybody asked; for a separate thread, again and again.

        Args:
          board: shared by the processes.
          index: this process.
          count: how many there are.
          breathe: called while waiting for the others; false gives up.
        """
        with self._lock:
            if self._at is not None:
                return
            key = f"{self._topic}-{self._round}"
            if self._asked.is_set():
                board.put(f"asked/{key}", str(index))
            elif board.get(f"asked/{key}") is None:
                return
            # The lock keeps this process from polling on until the point is known.
            board.put(f"polls/{key}/{index}", str(self._polls))
            while len(answers := board.under(f"polls/{key}")) < count:
                if not breathe():
                    return
                time.sleep(0.02)
            # One beyond the farthest: nobody has passed it yet, and everybody comes to it.
            self._at = 1 + max(int(polls) for polls in answers.values())
            self._asked.set()
