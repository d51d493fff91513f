"""Bytes of files, unpacked, and their text in whatever encoding it was written."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from jaxdistill.errors import DataError

_log = logging.getLogger("jaxdistill")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16, and so comes before it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_content(path: Path) -> bytes:
    """Return a file's bytes, unpacked where its ending says that it is compressed.

    Raises:
      DataError: it is missing, a folder, damaged or unreadable.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; give a path that exists{_siblings(path)}")
    if path.is_dir():
        raise DataError(
            f"{path}: got a folder, expected a file; for a folder of images set data.format=images"
        )
    if not path.is_file():
        raise DataError(
            f"{path}: got a pipe or a device, expected a file; write its content to a file first"
        )
    try:
        content = path.read_bytes()
        unpack = COMPRESSED.get(path.suffix.lower())
        return content if unpack is None else unpack(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, EOFError, ValueError, *_DAMAGED) as error:
        raise DataError(f"{path}: cannot be read: {error}; is the file whole?") from None


def read_text(content: bytes, source: str, encoding: str | None = None) -> str:
    """Decode text: by its byte order mark, else as UTF-8, else as Windows writes Western text.

    Args:
      source: what to call it in messages.
      encoding: what it is written in; found out where None.

    Raises:
      DataError: it is not written in the `encoding` given, or none is and it cannot be determined.
    """
    if encoding is not None:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"data.encoding: {source} is not {encoding} at byte {error.start:,}; name the "
                "encoding that it was written in, or drop data.encoding"
            ) from None
        return text.removeprefix("\ufeff")
    found = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    found = found or _wide(content) or "utf-8"
    try:
        text = content.decode(found)
    except UnicodeDecodeError as error:
        if _foreign(content):
            raise DataError(
                f"{source}: not UTF-8 at byte {error.start:,}, nor one of the Western alphabets; "
                "set data.encoding to what it was written in (gbk, big5, shift_jis, cp1251, ...)"
            ) from None
        text, found = _western(content)
        _log.warning(
            "%s: not UTF-8 at byte %d, read as %s; if that is wrong set data.encoding",
            source,
            error.start,
            found,
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        _log.warning(
            "%s line %d: holds a NUL character, which is kept (%d in all); is the file whole?",
            source,
            line,
            text.count("\0"),
        )
    return text


def is_text(content: bytes) -> bool:
    """Say whether bytes are text that says how it is encoded: marked, or UTF-8 without zeros."""
    if any(content.startswith(mark) for mark, _ in _MARKS):
        return True
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


def without_surrogates(text: str) -> str:
    """Replace halves of characters, which no encoding can write, by U+FFFD; pairs become one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _foreign(content: bytes) -> bool:
    """Tell writings without Latin letters, whose bytes beyond ASCII stand together."""
    runs = re.findall(rb"[\x80-\xff]+", content[:1_000_000])
    return sum(len(run) for run in runs if len(run) > 2) > sum(map(len, runs)) / 2


def _western(content: bytes) -> tuple[str, str]:
    try:
        return content.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin-1"


def _wide(content: bytes) -> str | None:
    """Tell UTF-16 without a byte order mark by the zeros beside its ASCII characters."""
    head = content[:4096]
    half = len(head) // 2
    for first, name in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros, others = head[first::2].count(0), head[1 - first :: 2].count(0)
        if half >= 4 and zeros > half / 2 and not others:
            return name
    return None


def _unzip(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise DataError(f"got {len(names)} files in it, expected one; unpack it and name one")
        return archive.read(names[0])


def _unpack_zstandard(content: bytes) -> bytes:
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd") as stream:
        return stream.read()


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _unpack_zstandard,
    ".zip": _unzip,
}
"""How files are unpacked, by their endings."""
# A zip that wants a password is a RuntimeError.
_DAMAGED = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} is not there either)"
    files = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return f" (its folder holds {', '.join(files[:8])})" if files else " (its folder is empty)"
