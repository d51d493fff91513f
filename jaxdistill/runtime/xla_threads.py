"""Host threads: virtual CPU devices need more of them than there are devices."""

from __future__ import annotations

import os
import re


def spare_threads_for_virtual_devices() -> None:
    """Give XLA two threads for each virtual CPU device, where several were asked for.

    XLA's own pool has as many threads as devices. In a collective every device but the last waits
    on a thread of that pool; the last may be waiting on one too, for a part of a matrix product
    that no thread is left to compute. The process then aborts after 40 seconds.

    Call it before jax is imported. A `NPROC` or `PJRT_NPROC` of the environment is left as it is.
    """
    asked = re.findall(
        r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", "")
    )
    devices = int(asked[-1]) if asked else int(os.environ.get("JAX_NUM_CPU_DEVICES") or 1)
    if devices > 1 and "PJRT_NPROC" not in os.environ:
        os.environ.setdefault("NPROC", str(max(2 * devices, os.cpu_count() or 1)))
