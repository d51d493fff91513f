"""Host memory between steps: on CPU, freed memory stays with the process."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> str | None:
    """Let the C library keep freed memory for the next step; return why not, or None.

    On CPU a compiled step allocates its temporaries anew each time. The GNU C library takes blocks
    of that size from the kernel and gives them back, so that every step pays for zeroing each of
    its pages. Kept, they cost only that the resident size stays at its peak. Threads share one
    heap for that, which hosts of accelerators, with threads by the hundred, are better without:
    where jax may run on one, nothing is done and None returned.

    Call it before jax is imported: threads that have a separate heap keep it.
    """
    if not _runs_on_cpu():
        return None
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return "the C library has no mallopt"
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)):
        if mallopt(option, value) != 1:
            return f"mallopt refused option {option}"
    return None


def _runs_on_cpu() -> bool:
    """Return whether jax will run on CPU: by configuration, or for want of another plugin."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    spaces = ("jax_plugins", "libtpu")
    return not plugins and not any(importlib.util.find_spec(name) for name in spaces)
