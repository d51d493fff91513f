"""Every benchmark runs to its end at the smallest sizes and writes what others read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
PRETRAINED = {"encoder_epoch", "first_step", "loop_overhead", "sst2"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_smoke(script, tmp_path, request):
    if script in PRETRAINED:
        request.getfixturevalue("data_folder")
        request.getfixturevalue("minilm_folder")
    # On one device, as in a reader's shell; the compiler is quick, as in all tests.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    path = tmp_path / "rows.json"
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--smoke", "--json", str(path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"machine", "versions", "rows"} <= found.keys()
    assert found["rows"]
    assert found["versions"]["jaxdistill"] != "absent"
