"""The benchmark of the fused losses: its rows, and the memory it reports for one TPU chip."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
GIB = 2**30


@pytest.mark.slow
def test_rows_hold_what_others_read(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fused_loss as benchmark

    sizes = benchmark.Sizes(8, 16, 200, "float32")
    monkeypatch.setattr(benchmark, "CPU", sizes)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "fused_loss.json"
    options = ["--platforms", "v5e", "gpu", "cpu", "--tokens", "64", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["fused_loss.py", *options, "--json", str(path)])
    benchmark.main()
    found = json.loads(path.read_text())
    assert {"machine", "versions", "rows"} <= found.keys()
    assert [row["implementation"] for row in found["rows"]] == list(benchmark.IMPLEMENTATIONS)
    for row in found["rows"]:
        assert (row["platform"], row["tokens"], row["vocabulary"]) == ("cpu", 64, 200)
        assert row["temporary_bytes"] > 0
        assert row["milliseconds"] > 0
        assert row["floor_milliseconds"] > 0
    assert benchmark.missing("v5e").startswith("libtpu is not installed")
    assert benchmark.missing("gpu").startswith("jax sees no GPU")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the compiler for TPUs, is not installed",
)
def test_memory_on_one_v5e_chip(tmp_path):
    path = tmp_path / "fused_loss.json"
    options = ["--platforms", "v5e", "--tokens", "8192", "131072"]
    options += ["--implementations", "fused", "fused_low_memory", "--json", str(path)]
    command = [sys.executable, str(BENCHMARKS / "fused_loss.py"), *options]
    subprocess.run(command, check=True, timeout=1200)
    rows = {
        (row["implementation"], row["tokens"]): row for row in json.loads(path.read_text())["rows"]
    }
    for name, limit, products in (("fused", 1.5, 4), ("fused_low_memory", 0.8, 6)):
        short, long = rows[name, 8192], rows[name, 131_072]
        assert short["temporary_bytes"] <= limit * GIB
        assert long["temporary_bytes"] <= (limit + 0.3) * GIB
        assert abs(long["temporary_bytes"] - short["temporary_bytes"]) <= 0.3 * GIB
        assert (short["products"], long["products"]) == (products, products)
