"""One run at a time in a work directory: a lock that the kernel takes back when a process dies."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxdistill.engine.telemetry import say
from jaxdistill.errors import ConfigError
from jaxdistill.runtime import group

try:
    import fcntl
except ImportError:  # A system without such locks.
    fcntl = None

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keep every other run out of a work directory; of several processes, process 0 does.

    Raises:
      ConfigError: another run is at work there; names its process, machine and start.
    """
    kept: list[IO[str]] = []
    group.once("lock", lambda: kept.extend(_take(workdir)))
    try:
        yield
    finally:
        for file in kept:
            with contextlib.suppress(OSError):
                file.truncate(0)
            file.close()


def _take(workdir: Path) -> list[IO[str]]:
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"workdir: cannot write to {str(workdir)!r} ({error.strerror}); "
            "give another one with --workdir PATH"
        ) from None
    reason = "this system has no locks"
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sign(file)
            return [file]
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            holder = _holder(path)
            file.close()
            raise ConfigError(
                f"workdir: {str(workdir)!r} is in use by another run ({holder}); wait until it "
                "has ended, or give another one with --workdir PATH"
            ) from None
        reason = f"its file system has no locks: {error.strerror}"
    file.close()
    say(f"run  {workdir} cannot be locked ({reason}); start no second run in it")
    return []


def _sign(file: IO[str]) -> None:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
    file.flush()


def _holder(path: Path) -> str:
    """Say who holds a lock, as far as it has written that down."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has just started"
