"""Notice a request to stop (SIGTERM), so that whatever is running can save first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from jaxdistill.runtime.consensus import Agreement

STOP = Agreement("stop", lasting=True)


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Turn SIGTERM into what `requested` reports, until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: STOP.ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        STOP.reset()


def requested() -> bool:
    """Return whether to stop now; of several processes, all are asked at the same points.

    All of them answer yes at the same call, soon after any of them was asked to stop.
    """
    return STOP.poll()


def asked() -> bool:
    """Return whether this process knows of a request, in work that each process does by itself."""
    return STOP.asked
