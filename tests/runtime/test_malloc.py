"""Freed memory stays with the process, also that of the threads which run the steps."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

from jaxdistill.runtime.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory() is None

import jax
import jax.numpy as jnp


# A temporary of 64 MiB, 16,384 pages: more than the library ever keeps by itself.
step = jax.jit(lambda x: jnp.tanh(x @ x.T) @ x)
x = jnp.ones((4096, 64))
faults = []
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):  # Queued: they run on threads of the backend.
        x = step(x)
    x.block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        check=True,
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "cpu"},
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_large_blocks_are_not_mapped_anew():
    assert faults("keep") < 100
    assert faults("plain") > 1000


def test_nothing_is_done_where_an_accelerator_may_run(monkeypatch):
    from jaxdistill.runtime import malloc

    def refuse(name):
        raise AssertionError("the C library was touched")

    monkeypatch.setattr(malloc.ctypes, "CDLL", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert malloc.keep_freed_memory() is None


def test_a_library_without_the_call_is_named(monkeypatch):
    from jaxdistill.runtime import malloc

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert malloc.keep_freed_memory() == "the C library has no mallopt"
