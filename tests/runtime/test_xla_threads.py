"""Virtual devices get threads to spare."""

import os
import subprocess
import sys

import pytest

from jaxdistill.runtime.xla_threads import spare_threads_for_virtual_devices

COUNT = """
import os

from jaxdistill.runtime.xla_threads import spare_threads_for_virtual_devices

spare_threads_for_virtual_devices()

import jax

jax.devices()
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in name for name in names))
"""
FLAG = "--xla_force_host_platform_device_count="


@pytest.mark.mostly_slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("asked", [{"XLA_FLAGS": FLAG + "24"}, {"JAX_NUM_CPU_DEVICES": "24"}])
def test_xla_starts_two_threads_for_each_device(asked):
    environment = {"JAX_PLATFORMS": "cpu", **asked}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], check=True, capture_output=True, text=True, env=environment
    )
    assert int(done.stdout) >= 48


@pytest.mark.parametrize("name", ["NPROC", "PJRT_NPROC"])
def test_a_number_of_the_user_stays(monkeypatch, name):
    for each in ("NPROC", "PJRT_NPROC"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "3")
    monkeypatch.setenv("XLA_FLAGS", FLAG + "2 " + FLAG + "64")
    before = dict(os.environ)
    spare_threads_for_virtual_devices()
    assert dict(os.environ) == before


def test_one_device_changes_nothing(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    spare_threads_for_virtual_devices()
    assert "NPROC" not in os.environ
