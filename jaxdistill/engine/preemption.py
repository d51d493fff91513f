"""Notice a request to stop (SIGTERM), so that whatever is running can save first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_requested = threading.Event()


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Turn SIGTERM into a flag that `requested` reports, until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _requested.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _requested.clear()


def requested() -> bool:
    """Return whether the process was asked to stop."""
    return _requested.is_set()
