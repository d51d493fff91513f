"""The command `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxdistill.cli.shared import Overrides, Source, Workdir, prepare, settle_host


def bench(
    config: Source,
    overrides: Overrides = None,
    workdir: Workdir = None,
    steps: Annotated[
        int, typer.Option("--steps", help="Number of steps timed in each repeat.")
    ] = 10,
    repeats: Annotated[
        int, typer.Option("--repeats", help="Number of repeats, whose spread is the noise.")
    ] = 3,
    loader: Annotated[
        bool,
        typer.Option(
            help="Time the real loader, too; without it, data and weights need not exist."
        ),
    ] = True,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="DIR", help="Folder for a profiler trace.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="File for all figures as JSON.")
    ] = None,
) -> None:
    """Time the step on the devices that are present, and say how far it is from its floor."""
    resolved, folder = prepare(config, overrides, workdir)
    settle_host()
    import jax

    from jaxdistill.bench.bench import bench as measure
    from jaxdistill.bench.table import describe
    from jaxdistill.files.json_files import write_answer

    found = measure(resolved, folder, steps=steps, repeats=repeats, loader=loader, trace=trace)
    if jax.process_index():
        return
    if json is not None:
        write_answer(json, found.as_json())
    print(describe(found))
