"""Memory: the host's, where models wait until they are laid over devices, and that of a device."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger("jaxdistill")


@contextlib.contextmanager
def in_host_memory() -> Iterator[None]:
    """Make new arrays in the host's memory: whole models need not fit one device."""
    place = device()
    with contextlib.nullcontext() if place is None else jax.default_device(place):
        yield


def device() -> Any:
    """Return what stands for the host's memory; None where devices share it, or jax lacks it."""
    if jax.default_backend() == "cpu":
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        log.warning(
            "models are loaded whole on the first device, since JAX_PLATFORMS leaves out cpu; "
            "name it, too, behind the others"
        )
        return None


def available_memory() -> tuple[int, str]:
    """Return the bytes of a device, or the free ones of the host on CPU, and what they are."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], f"on a {device.device_kind}"
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1]), "free on this host"
    except OSError:
        pass  # Not Linux: all memory instead of the free part.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "on this host"


def fits_one_device(size: int) -> bool:
    """Return whether a device has room for parameters of so many bytes and a fifth beside them."""
    return jax.default_backend() == "cpu" or 1.2 * size <= available_memory()[0]
