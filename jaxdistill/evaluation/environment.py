"""What a result was made with: versions, devices, processor."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import jax

from jaxdistill.types import Json

PACKAGES = (
    "jaxdistill",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
)


def environment() -> Json:
    """Return the versions of what computes and the devices it runs on."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": jax.process_count(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    from jaxdistill import __version__

    if name == "jaxdistill":
        return __version__  # Also right where the package runs from a checkout.
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
