"""Memory and time of KL + cross-entropy from hidden states: dense against fused.

Memory is that of temporaries of value and gradients (hidden states, head), as compiled for one TPU
chip (package `libtpu`, no TPU needed) or for the CPU. Floors: with the logits the dense version
cannot hold less than their two arrays in float32; the fused one no less than the float32 gradient
of the head, and none in the low-memory mode. A time floor is that of the matrix products alone: on
CPU measured in the same run, on TPU from the chip's published peak.

    python benchmarks/fused_loss.py --platforms v5e v5p cpu --json fused_loss.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxdistill import losses
from jaxdistill.losses import FusedTerm, Projection, fused_loss

TOPOLOGIES = {"v5e": ("v5e:2x2", 197e12), "v5p": ("v5p:2x2x1", 459e12)}
TERMS = {
    "forward_kl": FusedTerm("forward_kl", 0.5, 2.0),
    "cross_entropy": FusedTerm("cross_entropy", 0.5),
}
# Student width, teacher width, vocabulary, dtype.
TPU = (2048, 4096, 128_256, jnp.bfloat16)
CPU = (512, 1024, 32_000, jnp.float32)
GIB = 2**30


def dense(student, head, teacher, teacher_head, labels):
    """The mean mix from logits."""
    ours = jnp.matmul(student, head, preferred_element_type=jnp.float32)
    theirs = jnp.matmul(teacher, teacher_head, preferred_element_type=jnp.float32)
    value = 0.5 * losses.forward_kl(ours, theirs, temperature=2.0)
    return jnp.mean(value + 0.5 * losses.cross_entropy(ours, labels))


def fused(student, head, teacher, teacher_head, labels, low_memory=False):
    """The same mean from hidden states."""
    sides = Projection(student, head), Projection(teacher, teacher_head)
    found = fused_loss(*sides, TERMS, labels=labels, low_memory=low_memory)
    return found.mix / labels.size


def fused_low_memory(*arguments):
    """The same with the logits computed again for the head's gradient."""
    return fused(*arguments, low_memory=True)


IMPLEMENTATIONS = {"dense": dense, "fused": fused, "fused_low_memory": fused_low_memory}


def products(student, head, teacher, teacher_head, gradient):
    """The five matrix products of one chunk that any implementation needs."""
    ours, theirs = student @ head, teacher @ teacher_head
    return ours, theirs, gradient @ head.T, student.T @ gradient


def flops(tokens: int, student: int, teacher: int, vocabulary: int) -> float:
    """Operations of the products: logits of both sides, gradients to hidden states and head."""
    return 2.0 * tokens * vocabulary * (3 * student + teacher)


def memory_floor(name: str, tokens: int, sizes: tuple) -> int:
    """Bytes of temporaries that the implementation cannot go below."""
    student, _, vocabulary, _ = sizes
    return {
        "dense": 2 * 4 * tokens * vocabulary,
        "fused": 4 * student * vocabulary,
        "fused_low_memory": 0,
    }[name]


def shapes(tokens: int, sizes: tuple, sharding: Any = None) -> tuple:
    """What the implementations take, as shapes."""
    student, teacher, vocabulary, dtype = sizes

    def shape(*dimensions, dtype=dtype):
        return jax.ShapeDtypeStruct(dimensions, dtype, sharding=sharding)

    return (
        shape(tokens, student),
        shape(student, vocabulary),
        shape(tokens, teacher),
        shape(teacher, vocabulary),
        shape(tokens, dtype=jnp.int32),
    )


def compiled(function: Callable, arguments: tuple) -> Any:
    """Value and gradients to hidden states and head."""
    return jax.jit(jax.value_and_grad(function, (0, 1))).lower(*arguments).compile()


def on_tpu(platform: str, tokens: int) -> list[dict[str, Any]]:
    """Compile every implementation for one chip."""
    from jax.experimental import topologies

    name, peak = TOPOLOGIES[platform]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    sharding = SingleDeviceSharding(topology.devices[0])
    rows = []
    for implementation, function in IMPLEMENTATIONS.items():
        try:
            program = compiled(function, shapes(tokens, TPU, sharding))
        except jax.errors.JaxRuntimeError as error:
            print(f"{platform} {implementation} at {tokens} tokens: {str(error).splitlines()[0]}")
            continue
        used = program.memory_analysis().temp_size_in_bytes
        floor = 1e3 * flops(tokens, *TPU[:3]) / peak
        rows.append(row(platform, implementation, tokens, TPU, used, None, floor))
    return rows


def on_cpu(tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Compile and time every implementation, taking turns in one run."""
    keys = jax.random.split(jax.random.key(0), 5)
    *arrays, labels = shapes(tokens, CPU)
    inputs = [
        jax.random.normal(key, leaf.shape, leaf.dtype)
        * (leaf.shape[0] ** -0.5 if leaf.shape[0] != tokens else 1.0)
        for key, leaf in zip(keys, arrays, strict=False)
    ]
    classes = jax.random.randint(keys[4], labels.shape, 0, CPU[2])
    programs = {
        name: compiled(function, (*arrays, labels)) for name, function in IMPLEMENTATIONS.items()
    }
    slope = jax.ShapeDtypeStruct((tokens, CPU[2]), CPU[3])
    product = jax.jit(products).lower(*arrays, slope).compile()
    times = {name: [] for name in (*programs, "products")}
    gradient = jnp.ones(slope.shape, slope.dtype)
    for turn in range(repeats + 1):
        for name, program in (*programs.items(), ("products", product)):
            last = gradient if name == "products" else classes
            start = time.perf_counter()
            jax.block_until_ready(program(*inputs, last))
            if turn:  # the first turn touches the memory for the first time
                times[name].append(1e3 * (time.perf_counter() - start))
    floor = common.median(times.pop("products"))
    return [
        row(
            "cpu",
            name,
            tokens,
            CPU,
            programs[name].memory_analysis().temp_size_in_bytes,
            common.median(found),
            floor,
        )
        for name, found in times.items()
    ]


def row(platform, implementation, tokens, sizes, used, milliseconds, floor) -> dict[str, Any]:
    """One line of the table."""
    return {
        "platform": platform,
        "implementation": implementation,
        "tokens": tokens,
        "vocabulary": sizes[2],
        "student_width": sizes[0],
        "teacher_width": sizes[1],
        "dtype": jnp.dtype(sizes[3]).name,
        "temporary_bytes": used,
        "floor_bytes": memory_floor(implementation, tokens, sizes),
        "milliseconds": milliseconds,
        "floor_milliseconds": floor,
    }


def show(found: dict[str, Any]) -> None:
    """Print a row."""
    taken = found["milliseconds"]
    print(
        f"{found['platform']:4} {found['implementation']:17} {found['tokens']:>7} tokens  "
        f"temporaries {found['temporary_bytes'] / GIB:7.3f} GiB "
        f"(floor {found['floor_bytes'] / GIB:6.3f})  "
        f"time {'not run' if taken is None else f'{taken:.0f} ms'} "
        f"(products alone {found['floor_milliseconds']:.1f} ms)",
        flush=True,
    )


def main() -> None:
    """Print the table of every platform asked for."""
    parser = common.parser(__doc__)
    parser.add_argument("--platforms", nargs="+", default=["v5e", "v5p", "cpu"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192, 131_072])
    parser.add_argument("--cpu-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    # The compiler for TPUs asks these where no TPU is at hand.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    rows = []
    for platform in arguments.platforms:
        if platform == "cpu":
            found = [on_cpu(arguments.cpu_tokens, arguments.repeats)]
        else:
            found = (on_tpu(platform, tokens) for tokens in arguments.tokens)
        for group in found:
            for line in group:
                show(line)
                rows.append(line)
    common.write(arguments.json, rows, "jaxlib", "libtpu")


if __name__ == "__main__":
    main()
