"""The host's memory, where models wait until they are laid over devices."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
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
