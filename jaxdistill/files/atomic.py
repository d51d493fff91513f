"""Files written whole or not at all: under a temporary name, synced to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# File systems that cannot sync a folder say so in one of these ways.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends.

    The temporary file lies in the same folder, as `NAME.PID-RANDOM.tmp`. Where the block or the
    disk fails, the old file is untouched and the temporary one is gone; after a kill it may stay.
    A link is followed; what is no file, such as `/dev/stdout`, is written in place.

    Raises:
      OSError: the file cannot be written.
    """
    if _stream(path):
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            sync(file)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name itself is on disk only when the folder is.
    sync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8.

    Raises:
      OSError: it cannot be written; what was there before is then untouched.
    """
    with replacing(path) as file:
        file.write(text.encode())


def sync(file: IO[bytes] | IO[str]) -> None:
    """Bring what was written to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, where its file system can do that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _stream(path: Path) -> bool:
    # A shell's `> file` is a file behind /dev/stdout that must not be replaced.
    given = os.path.abspath(path)
    return given.startswith(("/dev/", "/proc/")) or (path.exists() and not path.is_file())
