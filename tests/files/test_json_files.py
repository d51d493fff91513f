"""What a run keeps is read back, or named with what to do about it."""

import numpy as np
import pytest

from jaxdistill.errors import CacheError, CheckpointError
from jaxdistill.files.array_files import read_arrays
from jaxdistill.files.json_files import read_object, write_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got no readable JSON (an empty file)"),
        (b'{"a": 1', "got no readable JSON (Expecting"),
        (b"\0" * 8, "got no readable JSON (Expecting"),
        (b'{"a": "\xff"}', "got no readable JSON ('utf-8' codec"),
        (b"[" * 100_000, "got no readable JSON (maximum recursion"),
        (b"1" * 5000, "got no readable JSON (Exceeds the limit"),
        (b"[1]", "got a JSON list, expected an object"),
        (b'{"b": 1}', "got the keys ['b'], expected 'a', too"),
        (None, "the file is missing"),
    ],
)
def test_a_damaged_object_is_named_with_its_remedy(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    for kind in (CheckpointError, CacheError):
        with pytest.raises(kind) as caught:
            read_object(path, "a", fix="delete it", error=kind)
        assert str(caught.value).startswith(f"{path}: {message}")
        assert str(caught.value).endswith("; delete it")


def test_a_whole_object_is_read(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1], "b": None})
    assert read_object(tmp_path / "x.json", "a", "b", fix="") == {"a": [1], "b": None}


def test_damaged_arrays_are_named_with_their_remedy(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(3), b=np.ones((2, 2)))
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_arrays(path, "a", fix="")["a"], [0, 1, 2])
    plain = tmp_path / "plain.npy"
    np.save(plain, np.ones(3))
    flipped = bytearray(whole)
    flipped[whole.index(b"NUMPY") + 130] ^= 4
    for content, message in (
        (b"", "got no readable NPZ file (No data left in file)"),
        (whole[:-40], "got no readable NPZ file"),
        (b"\0" * 64, "got no readable NPZ file"),
        (bytes(flipped), "got no readable NPZ file"),
        (plain.read_bytes(), "got no readable NPZ file"),
        (None, "got no file"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_arrays(path, "a", "b", fix="evaluate anew")
        assert str(caught.value).startswith(f"{path}: {message}")
        assert str(caught.value).endswith("; evaluate anew")
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="expected 'c', too; evaluate anew"):
        read_arrays(path, "a", "c", fix="evaluate anew")
