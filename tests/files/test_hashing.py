"""Hashes keep the values that caches and work directories of earlier versions were named by."""

import hashlib
import importlib.metadata

import numpy as np
import pytest

from jaxdistill.config.load import fingerprint
from jaxdistill.config.schema import TokenizerConfig
from jaxdistill.data.split import digest
from jaxdistill.data.text import bpe, tokenize
from jaxdistill.files import hashing
from jaxdistill.files.tensor_files import write_tensors
from jaxdistill.teachers import identity
from jaxdistill.teachers.cache.manifest import hash_tree

ARRAYS = {
    "b": np.arange(6, dtype=np.int32).reshape(2, 3),
    "a": np.linspace(0, 1, 5, dtype=np.float32),
}


@pytest.fixture
def versions(monkeypatch):
    """Hold the libraries' versions, which are part of some hashes."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")


def test_settings():
    found = fingerprint({"z": 1, "a": [1.5, None, "ü"]}, TokenizerConfig(vocabulary=300))
    assert found == "8c8056540b519ef6"


def test_arrays():
    assert digest(*ARRAYS.values()) == "3a92fb864eee493b"
    turned = np.arange(6, dtype=np.int32).reshape(3, 2).T
    assert digest(turned) == digest(np.ascontiguousarray(turned)) != digest(turned.T)


def test_a_tree():
    expected = "5bfc8e3f4fa7ed31e49bf03a4f07d4ffcdd3334cc59250df12c097d3fb1450bd"
    assert hash_tree(ARRAYS) == expected


def test_a_teacher_of_a_spec():
    expected = "bdd4bc1b13a1848caae14ee29e361fede111621f40aba98a4a69ddf808cac351"
    assert identity.teacher_hash({"family": "mlp", "hidden_sizes": [4]}, 3) == expected


def test_a_file_of_a_cache(tmp_path):
    expected = "2dd63c63e67073137ab91338cd3d452dd9da8da347df176df7bb793c221c460e"
    path = tmp_path / "x.safetensors"
    assert write_tensors(path, ARRAYS) == (expected, 164)
    assert hashing.hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest() == expected


def test_tokens(tmp_path, versions):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    key = tokenize.cache_key(["a", "bc"], ["x", "ü"], folder=tmp_path, max_length=7)
    assert key == "5fd52cc9ea0fa4bc1be16ab261e31962"


def test_a_trained_tokenizer(tmp_path, versions):
    there = tmp_path / "tokenizer-ae4e0c63c7b5e2a3"
    there.mkdir()
    (there / "tokenizer_config.json").write_text("{}")
    assert bpe.trained_tokenizer(["hi", "ho"], vocabulary=300, folder=tmp_path) == there


def test_pieces_are_hashed_as_one():
    expected = hashlib.sha256(b"abc").hexdigest()
    assert hashing.hash_bytes(b"a", b"", b"bc") == hashing.hash_text("abc") == expected
    assert hashing.start([b"a", memoryview(b"bc")]).hexdigest() == expected


def test_json_is_hashed_whatever_its_order():
    expected = hashlib.sha256(b'{"a": 2, "b": 1}').hexdigest()
    assert hashing.hash_json({"b": 1, "a": 2}) == expected
