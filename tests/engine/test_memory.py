"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import numpy as np

from jaxdistill.engine.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(16 * 2**20, np.float32)  # 64 MiB, 16,384 pages
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_large_blocks_are_not_mapped_anew():
    assert faults("plain") > 50
    assert faults("keep") < 10
