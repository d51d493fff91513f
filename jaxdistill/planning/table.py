"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator

from jaxdistill.parallel.mesh import shown
from jaxdistill.planning.account import Account
from jaxdistill.planning.chips import GIB
from jaxdistill.planning.plan import Plan

_PARTS = {
    "parameters": "student's parameters",
    "optimizer": "optimizer state",
    "teacher": "teacher",
    "batch": "batch",
    "activations": "activations kept by loops",
    "temporaries": "gradients and workspace",
    "program": "program",
}


def describe(plan: Plan) -> str:
    """Return a plan as lines of text."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    chip, main = plan.topology.chip, plan.main
    hbm = "" if main.hbm_bytes is None else f", {main.hbm_bytes / GIB:.2f} GiB each"
    yield (
        f"{plan.config} on {plan.topology.name}: {main.devices} chips{hbm}; mesh {shown(plan.mesh)}"
    )
    for one in plan.programs:
        yield ""
        yield from _account(one, plan.dense if one is main else None, plan.price)
    if not chip.flops:
        yield f"no floors of time: the peak of {chip.name!r} is not known"
    yield from _changes(plan)
    if plan.ranked:
        yield ""
        told = "fastest first, by the floor of a step" if chip.flops else "least memory first"
        yield f"search: {told}"
        for candidate in plan.ranked:
            one = candidate.account
            bound = "" if one.bound is None else f"  at least {1e3 * one.bound:8.1f} ms"
            fits = "" if one.fits is not False else "  does not fit"
            words = [o.removeprefix("parallel.") for o in candidate.overrides if o[-2:] != "=1"]
            yield f"  {size_text(one.peak_bytes)}{bound}  {' '.join(words) or 'one device'}{fits}"
        yield from (f"  cannot be: {reason}" for reason in plan.refused)


def _account(one: Account, dense: Account | None, price: float | None) -> Iterator[str]:
    yield f"{one.name}: {one.tokens:,} {one.unit} a step{_verdict(one)}"
    unit, letters = (GIB, "GiB") if one.peak_bytes >= GIB / 10 else (2**20, "MiB")
    head = f"{letters} per chip"
    beside = "" if dense is None else f"{'with dense losses':>29}"
    yield f"  {head:36}{beside}".rstrip()
    for part, words in _PARTS.items():
        if part in ("activations", "program") and not one.memory[part]:
            continue
        beside = "" if dense is None else f"{dense.memory[part] / unit:20.3f}"
        yield f"  {words:36}{one.memory[part] / unit:9.3f}{beside}"
    beside = "" if dense is None else f"{dense.peak_bytes / unit:20.3f}{_verdict(dense)}"
    yield f"  {'at once':36}{one.peak_bytes / unit:9.3f}{beside}"
    if one.flops is None:
        return
    loops = "" if one.bounded else " (a loop that its data end counts once)"
    work = f"{unit_text(one.flops)}FLOP, {unit_text(one.moved_bytes or 0)}B of memory"
    yield f"  per chip and step: {work}{loops}"
    for message in one.messages[:6]:
        time = "" if message.seconds is None else f"  {1e3 * message.seconds:9.2f} ms"
        yield (
            f"    {message.kind:18} over {message.axes:10} {unit_text(message.bytes):>9}B in "
            f"{message.count:6.0f}{time}"
        )
    if not one.seconds or one.bound is None:
        return
    floors = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in one.seconds.items())
    limit = max(one.seconds, key=lambda name: one.seconds[name])
    yield f"  floors: {floors}; {limit} limits"
    mfu = "" if one.mfu is None else f", MFU at most {100 * one.mfu:.0f} %"
    cost = "" if price is None else f", at least {one.cost(price):,.2f} per billion {one.unit}"
    yield f"  at most {one.tokens_per_second:,.0f} {one.unit} a second{mfu}{cost}"


def _verdict(one: Account) -> str:
    return {True: "  fits", False: "  DOES NOT FIT", None: ""}[one.fits]


def _changes(plan: Plan) -> Iterator[str]:
    if plan.main.fits is not False:
        return
    yield ""
    for one in plan.tried:
        words = " ".join(one.overrides)
        yield f"  tried {words}: {size_text(one.account.peak_bytes)}{_verdict(one.account)}"
    if plan.change is None:
        yield "nothing that was tried fits: take more chips, or chips with more memory"
    else:
        yield f"the smallest change that fits: {' '.join(plan.change.overrides)}"


def size_text(value: float) -> str:
    """Write bytes in GiB or MiB."""
    return f"{value / GIB:.2f} GiB" if value >= GIB / 10 else f"{value / 2**20:.2f} MiB"


def unit_text(value: float) -> str:
    """Write a number with three digits and the letter of its power of 1,000."""
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {letter}"
    return f"{value:.0f} "
