"""Weak scaling on paper: what crosses the interconnect per chip as chips and rows grow together.

Every topology is compiled for, with the same rows per chip; no device is needed but the package
`libtpu`. Two layouts: `fsdp` over all chips, and `fsdp` over as many as the smallest topology has,
with copies along `data`. A message of `n` parts is `n - 1` parts to receive, so that what a chip
receives grows by `(1 - 1/n)` where `fsdp` does; `messages` are the whole arrays.

    python benchmarks/scaling.py --json scaling.json
"""

from __future__ import annotations

from typing import Any

import common

from jaxdistill.planning.topology import settle

GIB = 2**30
TOPOLOGIES = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")


def row(config: Any, topology: str, mesh: dict[str, int]) -> dict[str, Any]:
    """Plan one step and sum its messages by axis."""
    from jaxdistill.planning.plan import plan

    made = plan(config, topology, mesh=mesh, dense=False, suggest=False)
    one = made.main
    over = {
        axis: sum(m.message_bytes for m in one.messages if axis in m.axes.split("+"))
        for axis in ("data", "fsdp")
    }
    return {
        "topology": topology,
        "chips": one.devices,
        "mesh": made.mesh,
        "rows": config.train.batch_size,
        "fits": one.fits,
        "peak_bytes_per_device": one.peak_bytes,
        "flops_per_device": one.flops,
        "fsdp_message_bytes": over["fsdp"],
        "data_message_bytes": over["data"],
        "received_bytes": sum(m.bytes for m in one.messages),
        "seconds": one.seconds,
        "tokens_per_second_at_most": one.tokens_per_second,
    }


def show(found: dict[str, Any]) -> None:
    """Print a row."""
    mesh = " ".join(f"{name}={size}" for name, size in found["mesh"].items() if size > 1)
    floors = " ".join(f"{name} {1e3 * value:.0f}" for name, value in found["seconds"].items())
    rate = found["tokens_per_second_at_most"]
    print(
        f"{found['topology']:>10} {mesh:18} {found['rows']:>5} rows  "
        f"messages over fsdp {found['fsdp_message_bytes'] / GIB:7.3f} GiB, over data "
        f"{found['data_message_bytes'] / GIB:6.3f}; received {found['received_bytes'] / GIB:7.3f}  "
        f"at once {found['peak_bytes_per_device'] / GIB:6.2f} GiB  floors in ms: {floors}"
        + ("" if rate is None else f"  {rate:,.0f} tokens/s"),
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", default="qwen3_8b_to_0.6b")
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--rows", type=int, default=1, help="per chip")
    parser.add_argument("--layouts", nargs="+", default=["all", "fixed"], choices=["all", "fixed"])
    smoke = {
        "config": "stdlib_lm",
        "topologies": ["cpu:4", "cpu:2"],
        "rows": 2,
        "layouts": ["all"],
    }
    arguments = common.parse(parser, smoke=smoke)
    settle(arguments.topologies[0])
    from jaxdistill.config.load import load_config
    from jaxdistill.planning.topology import open_topology

    chips = [len(open_topology(name).devices) for name in arguments.topologies]
    rows, growth = [], {}
    for layout in arguments.layouts:
        found = []
        for name, count in zip(arguments.topologies, chips, strict=True):
            config = load_config(arguments.config, [f"train.batch_size={count * arguments.rows}"])
            fsdp = count if layout == "all" else min(chips)
            found.append({"layout": layout, **row(config, name, {"data": -1, "fsdp": fsdp})})
            show(found[-1])
        sizes = [line["fsdp_message_bytes"] for line in found]
        growth[layout] = max(sizes) / min(sizes)
        print(f"fsdp {layout}: messages over fsdp differ by {growth[layout]:.3f} times")
        rows += found
    common.write(arguments.json, rows, "jaxlib", "libtpu", growth=growth)


if __name__ == "__main__":
    main()
