"""What one chip can do: memory, peak of its matrix units, and bytes per second in and out of it.

TPU: Google Cloud's system architecture pages (docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e),
whose bidirectional interconnect bandwidth per chip is divided by its ports and by two directions.
The memory that a program may use is from the compiler's message when it runs out. GPU: NVIDIA's
data sheets of A100, H100 and H200 (SXM), dense products without sparsity; NVLink in one direction.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: name in a topology, `v5e` in `v5e:16x16`.
      hbm_bytes: what a program may use, or None where it is not known.
      flops: peak of products in bfloat16 per second, or None.
      hbm_bandwidth: bytes per second, or None.
      link_bandwidth: bytes per second over one link in one direction, or None.
      dimensions: dimensions of the torus that chips form; 0 where every pair is equally far.
      wraps: chips along a dimension from which on (and in multiples of which) it is a ring.
      examples: topologies that exist.
      kinds: what jax calls such a device (`device_kind`).
    """

    name: str
    hbm_bytes: int | None = None
    flops: float | None = None
    hbm_bandwidth: float | None = None
    link_bandwidth: float | None = None
    dimensions: int = 0
    wraps: int = 0
    examples: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

TPUS = {
    chip.name: chip
    for chip in (
        Chip("v4", int(30.75 * GIB), 275e12, 1200e9, 50e9, 3, 4, _CUBE, ("TPU v4",)),
        Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 50e9, 2, 16, _FLAT, ("TPU v5 lite",)),
        Chip("v5p", int(95.74 * GIB), 459e12, 2765e9, 100e9, 3, 4, _CUBE, ("TPU v5",)),
        Chip("v6e", int(31.25 * GIB), 918e12, 1638e9, 100e9, 2, 16, _FLAT, ("TPU v6 lite",)),
    )
}
GPUS = {
    chip.name: chip
    for chip in (
        Chip("A100-40GB", 40 * 10**9, 312e12, 1555e9, 300e9, kinds=("A100-SXM4-40GB",)),
        Chip("A100", 80 * 10**9, 312e12, 2039e9, 300e9, kinds=("A100",)),
        Chip("H200", 141 * 10**9, 989e12, 4800e9, 450e9, kinds=("H200",)),
        Chip("H100", 80 * 10**9, 989e12, 3350e9, 450e9, kinds=("H100",)),
    )
}
CPU = Chip("cpu")


def chip_of(device_kind: str, platform: str) -> Chip:
    """Return the chip that jax calls `device_kind`; one without figures where it is not known."""
    if platform == "cpu":
        return CPU
    for chip in TPUS.values():
        if device_kind in chip.kinds:
            return chip
    for chip in GPUS.values():
        if any(kind in device_kind for kind in chip.kinds):
            return chip
    return Chip(device_kind)
