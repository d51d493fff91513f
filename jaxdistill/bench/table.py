"""A bench as text."""

from __future__ import annotations

from collections.abc import Iterator

from jaxdistill.bench.bench import Bench, Timing
from jaxdistill.parallel.mesh import shown
from jaxdistill.planning.table import size_text, unit_text


def describe(bench: Bench) -> str:
    """Return a bench as lines of text."""
    return "\n".join(_lines(bench))


def _lines(bench: Bench) -> Iterator[str]:
    shape = " x ".join(str(size) for size in bench.shape)
    teacher = "live" if bench.program == "joint" else "its kept outputs"
    yield f"{bench.config} on {bench.environment['devices']}; mesh {shown(bench.mesh)}"
    yield ""
    yield f"made-up batches of {shape}; teacher: {teacher}"
    yield from _timing(bench.made_up)
    yield _line("compiled in", f"{bench.compile_seconds:.1f} s")
    yield _line("memory at most", f"{size_text(bench.peak_bytes)} a device, by {bench.peak_source}")
    if bench.mfu:
        parts = ", ".join(f"{who} {100 * share:.1f} %" for who, share in bench.mfu.items())
        yield _line("MFU", f"{100 * sum(bench.mfu.values()):.1f} % ({parts})")
    yield _line("peak", f"{unit_text(bench.peak.flops)}FLOP/s, {bench.peak.source}")
    if bench.floor_milliseconds is not None:
        yield _line(
            "floor",
            f"{bench.floor_milliseconds:.1f} ms by {bench.floor}; the step takes "
            f"{bench.times_the_floor:.1f} times that",
        )
    if bench.loader is not None:
        yield ""
        yield "batches of the loader"
        yield from _timing(bench.loader)
        yield _line("waiting for data", f"{100 * bench.loader.waiting:.1f} %")
        if bench.loader.tokens_per_second is not None:
            yield _line("padding", f"{100 * bench.loader.padding:.1f} %")
        yield _line("first steps", f"{bench.loader.first_seconds:.1f} s, one of each shape")
    if bench.notes or bench.noise or bench.trace:
        yield ""
    yield from bench.notes
    if bench.trace is not None:
        yield f"a trace lies in {bench.trace}"
    yield from (f"noisy: {reason}" for reason in bench.noise)


def _timing(timing: Timing) -> Iterator[str]:
    p10, p50, p90 = (timing.milliseconds[name] for name in ("p10", "p50", "p90"))
    tails = f"p10 {p10:.1f}, p90 {p90:.1f}"
    yield _line("step", f"{p50:.1f} ms ({tails}; {timing.steps} steps)")
    rates = [f"{timing.examples_per_second:,.1f} examples/s"]
    if timing.tokens_per_second is not None:
        rates.insert(0, f"{timing.tokens_per_second:,.0f} tokens/s")
    yield _line("throughput", ", ".join(rates))


def _line(name: str, value: str) -> str:
    return f"  {name:18}{value}"
