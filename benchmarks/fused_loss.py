"""Memory and time of KL + cross-entropy from hidden states: dense against fused.

Memory is that of temporaries of value and gradients (student's hidden states and head), compiled
for one TPU chip (package `libtpu`, no TPU needed), the CPU, or the GPU at hand. Floors: the dense
version cannot hold less than two arrays of logits in float32, the fused one no less than the head's
gradient in float32; the low-memory mode can do without. A time floor is that of the four matrix
products alone: measured in the same run, on TPU computed from the chip's published peak. `products`
counts those in the compiled program: 4 where none with a head is computed twice.

    python benchmarks/fused_loss.py --json fused_loss.json
    python benchmarks/fused_loss.py --platforms gpu --chunks 768 1536 --json fused_gpu.json

The second needs a GPU and `pip install "jax[cuda13]"`. `--chunks` adds those sizes of chunk.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import common
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxdistill.planning.loss import Sizes, dense, fused, lowered, shapes, useful_flops
from jaxdistill.planning.topology import missing_libtpu, open_topology

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1"}
GIB = 2**30
ACCELERATOR = Sizes(2048, 4096, 128_256, jnp.bfloat16)
CPU = Sizes(512, 1024, 32_000, jnp.float32)
IMPLEMENTATIONS = {
    "dense": dense,
    "fused": fused,
    "fused_low_memory": functools.partial(fused, low_memory=True),
}


def products(student, head, teacher, teacher_head, slope):
    """The four matrix products that any implementation needs."""
    return student @ head, teacher @ teacher_head, slope @ head.T, student.T @ slope


def memory_floor(name: str, tokens: int, sizes: Sizes) -> int:
    """Bytes of temporaries that the implementation cannot go below."""
    if name == "dense":
        return 2 * 4 * tokens * sizes.vocabulary
    return 0 if name == "fused_low_memory" else 4 * sizes.student * sizes.vocabulary


def compiled(function: Callable, arguments: tuple) -> Any:
    """Value and gradients to the student's hidden states and head."""
    return lowered(function, arguments).compile()


def row(
    platform: str,
    implementation: str,
    tokens: int,
    sizes: Sizes,
    program: Any,
    milliseconds: float | None,
    floor_milliseconds: float,
    **more: Any,
) -> dict[str, Any]:
    """One line of the table."""
    memory = program.memory_analysis()
    used, given = memory.temp_size_in_bytes, memory.argument_size_in_bytes
    made = re.findall(r"= \S+ (?:dot|convolution)\(|__cublas\$\w*|__triton_gemm", program.as_text())
    return {
        "platform": platform,
        "implementation": implementation,
        "tokens": tokens,
        "vocabulary": sizes.vocabulary,
        "student_width": sizes.student,
        "teacher_width": sizes.teacher,
        "dtype": jnp.dtype(sizes.dtype).name,
        "temporary_bytes": used,
        "floor_bytes": memory_floor(implementation, tokens, sizes),
        "total_bytes": used + given + memory.output_size_in_bytes,
        "products": len(made),
        "milliseconds": milliseconds,
        "floor_milliseconds": floor_milliseconds,
        **more,
    }


def for_tpu(
    platform: str, tokens: int, implementations: dict[str, Callable]
) -> Iterator[dict[str, Any]]:
    """Compile every implementation for one chip."""
    machine = open_topology(TOPOLOGIES[platform])
    sharding = SingleDeviceSharding(machine.devices[0])
    sizes = ACCELERATOR
    assert machine.chip.flops is not None  # known of TPUs
    floor = 1e3 * useful_flops(tokens, sizes) / machine.chip.flops
    for implementation, function in implementations.items():
        try:
            program = compiled(function, shapes(tokens, sizes, sharding))
        except jax.errors.JaxRuntimeError as error:
            print(f"{platform} {implementation} at {tokens} tokens: {str(error).splitlines()[0]}")
            continue
        yield row(platform, implementation, tokens, sizes, program, None, floor)


def at_hand(
    platform: str, tokens: int, implementations: dict[str, Callable], repeats: int
) -> Iterator[dict[str, Any]]:
    """Compile and time every implementation on this machine, taking turns in one run."""
    device = jax.devices(platform)[0]
    sizes = CPU if platform == "cpu" else ACCELERATOR
    *arrays, labels = shapes(tokens, sizes, SingleDeviceSharding(device))
    slope = jax.ShapeDtypeStruct((tokens, sizes.vocabulary), sizes.dtype, sharding=labels.sharding)
    with jax.default_device(device):
        keys = jax.random.split(jax.random.key(0), 5)
        hidden, head, theirs, teacher_head = (
            jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, arrays, strict=False)
        )
        inputs = hidden, head / sizes.student**0.5, theirs, teacher_head / sizes.teacher**0.5
        classes = jax.random.randint(keys[4], labels.shape, 0, sizes.vocabulary)
    programs = {
        name: compiled(function, (*arrays, labels)) for name, function in implementations.items()
    }
    everything = {**programs, "products": jax.jit(products).lower(*arrays, slope).compile()}
    last = dict.fromkeys(programs, classes)
    last["products"] = jnp.ones(slope.shape, slope.dtype, device=device)
    times: dict[str, list[float]] = {name: [] for name in everything}
    busy: dict[str, list[float]] = {name: [] for name in everything}
    for turn in range(repeats + 1):
        for name, program in everything.items():
            start, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*inputs, last[name]))
            if turn:  # the first turn touches the memory for the first time
                times[name].append(1e3 * (time.perf_counter() - start))
                busy[name].append(1e3 * (time.process_time() - processor))
    floor = common.median(times["products"])
    for name, program in programs.items():
        # All cores' time: what a busy machine changes least.
        more = {"processor_milliseconds": common.median(busy[name])} if platform == "cpu" else {}
        more["device"] = device.device_kind
        taken = common.median(times[name])
        yield row(platform, name, tokens, sizes, program, taken, floor, **more)


def missing(platform: str) -> str | None:
    """Why there is nothing to say about a platform here."""
    if platform in TOPOLOGIES:
        return missing_libtpu()
    if platform == "gpu" and all(device.platform != "gpu" for device in jax.devices()):
        return "jax sees no GPU; pip install 'jax[cuda13]' where there is one"
    return None


def show(found: dict[str, Any]) -> None:
    """Print a row."""
    taken, processor = found["milliseconds"], found.get("processor_milliseconds")
    print(
        f"{found['platform']:4} {found['implementation']:17} {found['tokens']:>7} tokens  "
        f"temporaries {found['temporary_bytes'] / GIB:7.3f} GiB "
        f"(floor {found['floor_bytes'] / GIB:6.3f})  {found['products']} products  "
        f"time {'not run' if taken is None else f'{taken:.1f} ms'} "
        f"(products alone {found['floor_milliseconds']:.1f} ms)"
        + ("" if processor is None else f"  processor {processor:.0f} ms"),
        flush=True,
    )


def main() -> None:
    """Print the table of every platform asked for."""
    parser = common.parser(__doc__)
    known = [*TOPOLOGIES, "cpu", "gpu"]
    parser.add_argument("--platforms", nargs="+", choices=known, default=["v5e", "v5p", "cpu"])
    parser.add_argument("--tokens", nargs="+", type=int, help="instead of each platform's own")
    parser.add_argument("--implementations", nargs="+", default=list(IMPLEMENTATIONS))
    parser.add_argument("--chunks", nargs="+", type=int, default=[], help="further sizes of chunk")
    parser.add_argument("--repeats", type=int, default=5)
    smoke = {"platforms": ["cpu"], "tokens": [64], "repeats": 1}
    arguments = common.parse(parser, smoke=smoke)
    if "gpu" not in arguments.platforms:
        jax.config.update("jax_platforms", "cpu")
    implementations = {name: IMPLEMENTATIONS[name] for name in arguments.implementations}
    for chunk in arguments.chunks:
        implementations[f"fused_chunk_{chunk}"] = functools.partial(fused, chunk=chunk)
    rows = []
    for platform in arguments.platforms:
        if (reason := missing(platform)) is not None:
            print(f"{platform}: skipped, {reason}")
            continue
        own = {"cpu": [2048], "gpu": [1024, 8192]}.get(platform, [2048, 8192, 131_072])
        for tokens in arguments.tokens or own:
            if platform in TOPOLOGIES:
                found = for_tpu(platform, tokens, implementations)
            else:
                found = at_hand(platform, tokens, implementations, arguments.repeats)
            for line in found:
                show(line)
                rows.append(line)
    common.write(arguments.json, rows, "jaxlib", "libtpu")


if __name__ == "__main__":
    main()
