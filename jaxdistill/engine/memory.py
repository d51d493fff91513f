"""Host memory between steps: XLA's temporaries on CPU are pages the process keeps."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _AHEAD = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation; return whether it can.

    On CPU a compiled step allocates its temporaries anew each time. By default the GNU C library
    maps blocks of that size from the kernel and gives them back, so that every step pays for
    zeroing each of its pages. The resident size stays at its peak in exchange.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _AHEAD))
    return all(mallopt(option, value) == 1 for option, value in options)
