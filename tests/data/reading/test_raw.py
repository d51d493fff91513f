"""Files packed and encoded in every usual way give the text that was written."""

import bz2
import gzip
import io
import logging
import lzma
import zipfile

import pyarrow
import pytest

from jaxdistill.data.reading.raw import is_text, read_content, read_text, without_surrogates
from jaxdistill.errors import DataError

TEXT = "text,label\nnaïve film “good”,1\n电影不错,0\n"


def zstandard(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names or ("a.csv",):
            archive.writestr(name, content)
    return buffer.getvalue()


PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard,
    "zip": zipped,
}


@pytest.mark.parametrize("ending", PACK)
def test_packed_files_are_unpacked(tmp_path, ending):
    path, content = tmp_path / f"a.csv.{ending}", TEXT.encode() * 99
    path.write_bytes(PACK[ending](content))
    assert read_content(path) == content
    path.write_bytes(PACK[ending](content)[:-9])
    with pytest.raises(DataError, match=r"cannot be read: .*is the file whole"):
        read_content(path)


def test_an_archive_of_several_files_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(b"x", "a.csv", "b.csv"))
    with pytest.raises(DataError, match=r"a\.zip: got 2 files in it, expected one"):
        read_content(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_tell_the_encoding(encoding):
    assert read_text(TEXT.encode(encoding), "a") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters_are_told_without_a_mark(encoding):
    text = "text,label\na film,1\n" * 20
    assert read_text(text.encode(encoding), "a") == text


def test_what_cannot_be_told_is_asked_for():
    with pytest.raises(DataError, match=r"a: not UTF-8 at byte 11, .*set data\.encoding"):
        read_text("text,label\n电影不错,0\n".encode("gbk"), "a")
    with pytest.raises(DataError, match=r"set data\.encoding"):
        read_text("хороший фильм,1\n".encode("cp1251"), "a")
    assert read_text("电影不错".encode("gbk"), "a", "gbk") == "电影不错"
    assert read_text(TEXT.encode("utf-8-sig"), "a", "utf-8") == TEXT
    with pytest.raises(DataError, match=r"data\.encoding: a is not gbk at byte"):
        read_text(b"\xff\xff\xff", "a", "gbk")


def test_what_windows_cannot_have_written_is_read_as_latin1(caplog):
    assert read_text("crème\x81".encode("latin-1"), "a") == "crème\x81"
    assert "read as latin-1" in caplog.text


def test_zeros_are_kept_and_told_with_their_line(caplog):
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert read_text(b"one\ntw\0o\0\n", "a") == "one\ntw\0o\0\n"
    assert "a line 2: holds a NUL character, which is kept (2 in all)" in caplog.text


def test_halves_of_characters_are_replaced_and_pairs_joined():
    assert without_surrogates("a\ud83d b") == "a\ufffd b"
    assert without_surrogates("a\ud83d\ude00b") == "a😀b"


def test_text_is_told_from_other_bytes():
    assert is_text("naïve".encode())
    assert is_text("naïve".encode("utf-16"))
    assert not is_text("naïve".encode("latin-1"))
    assert not is_text(b"PK\x03\x04\0\0")
