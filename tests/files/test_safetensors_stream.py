"""Checkpoints read and written tensor by tensor: files, and the memory that it takes."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdistill.files.safetensors_stream import (
    ALIGNMENT,
    Pending,
    TensorFile,
    aligned,
    all_finite,
    write_file,
)

ARRAYS = {
    "odd": np.arange(3, dtype=np.int8),
    "wide": np.linspace(0, 1, 6).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(7, np.int64),
    "half": np.array([[1.5, -2.25]], np.float16),
    "brain": np.asarray(jnp.array([1.0, 3.0], jnp.bfloat16)),
    "plain": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
}


def pending(arrays):
    return {
        name: Pending(array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    }


def test_files_equal_those_of_the_library(tmp_path):
    write_file(tmp_path / "ours", pending(ARRAYS), {"format": "pt"})
    read = load_file(tmp_path / "ours")
    save_file(ARRAYS, tmp_path / "theirs")
    file = TensorFile(tmp_path / "theirs")
    assert set(read) == set(file.entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        for got in (read[name], file.get_tensor(name)):
            assert (got.dtype, got.shape) == (array.dtype, array.shape), name
            np.testing.assert_array_equal(got.astype(np.float64), array.astype(np.float64))
        pieces = [*file.pieces(name)]
        assert sum(piece.size for piece in pieces) == array.size


def test_pieces_are_small_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdistill.files.safetensors_stream.PIECE", 12)
    write_file(tmp_path / "file", pending(ARRAYS), {})
    pieces = [*TensorFile(tmp_path / "file").pieces("plain")]
    assert [piece.size for piece in pieces] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(8))
    assert all_finite(np.ones(8))
    assert not all_finite(np.array([1.0] * 7 + [np.inf]))


def test_an_aligned_array_is_taken_over_and_survives_donation():
    for size in (1, 1000, 100_000):
        array = aligned((size,), np.dtype(np.float32))
        array[:] = 1.0
        assert array.ctypes.data % ALIGNMENT == 0
        taken = jax.device_put(array)
        assert taken.unsafe_buffer_pointer() == array.ctypes.data
        added = jax.jit(lambda x: x + 1.0, donate_argnums=0)(taken)
        np.testing.assert_array_equal(array, np.ones(size))
        np.testing.assert_array_equal(added, np.full(size, 2.0))


PROGRAM = """
    import json, sys
    from pathlib import Path

    import jax
    import numpy as np

    from jaxdistill.models.registry import build_model, load_model, save_model
    from jaxdistill.models.hub.rules import flatten

    SMALL = dict(family="llama", vocab_size=64, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    LARGE = SMALL | dict(vocab_size=8000, hidden_size=512, intermediate_size=1536,
        num_hidden_layers=20, num_attention_heads=8)

    def resident(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    def restart():
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now

    root = Path(sys.argv[1])
    if sys.argv[2] == "make":
        save_model(root / "first", build_model(LARGE), shard_bytes=60_000_000)
    else:
        save_model(root / "small", build_model(SMALL))
        load_model(root / "small")
        before = resident("VmRSS")
        restart()
        model = jax.block_until_ready(load_model(root / "first"))
        reading = resident("VmHWM") - before
        restart()
        save_model(root / "second", model, shard_bytes=60_000_000)
        writing = resident("VmHWM") - before
        size = sum(leaf.nbytes for leaf in flatten(model.params).values())
        print(json.dumps({"reading": reading, "writing": writing, "parameters": size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no resettable peak")
def test_memory_stays_under_the_parameters_and_one_shard(tmp_path):
    def run(part):
        program = textwrap.dedent(PROGRAM)
        command = [sys.executable, "-c", program, str(tmp_path), part]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("make")
    measured = json.loads(run("measure").splitlines()[-1])
    shards = sorted((tmp_path / "first").glob("*.safetensors"))
    assert len(shards) > 4
    assert measured["parameters"] > 250_000_000
    largest = max(path.stat().st_size for path in shards)
    for kind in ("reading", "writing"):
        assert measured[kind] < measured["parameters"] + 1.3 * largest, measured
    for path in shards:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    index = json.loads((tmp_path / "second" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == measured["parameters"]
    assert set(index["weight_map"].values()) == {path.name for path in shards}
