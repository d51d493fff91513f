"""The command `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxdistill.cli.shared import Overrides


def plan(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="A YAML file or a recipe; data and weights need not exist."
        ),
    ],
    overrides: Overrides = None,
    topology: Annotated[
        str,
        typer.Option("--topology", help="Chips, e.g. v5e:16x16, v5p:4x4x4, v6e:8x8, cpu:8, gpu."),
    ] = "cpu:1",
    mesh: Annotated[
        str | None,
        typer.Option("--mesh", help="Mesh that replaces the config's, e.g. data=16,fsdp=16."),
    ] = None,
    programs: Annotated[
        str | None,
        typer.Option(
            "--programs",
            help="Programs to plan: joint,cached,finetune,baseline,generate; by default the step.",
        ),
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Rank meshes and microbatches.")] = False,
    dense: Annotated[
        bool, typer.Option(help="Compile with dense losses, too, for comparison.")
    ] = True,
    suggest: Annotated[
        bool, typer.Option(help="Look for the smallest change that makes it fit.")
    ] = True,
    price: Annotated[
        float | None,
        typer.Option("--price", help="Price of a chip for an hour, for the cost per token."),
    ] = None,
    machine_code: Annotated[
        bool,
        typer.Option("--machine-code", help="Compile to machine code, which takes minutes (TPU)."),
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="File for the whole plan as JSON.")
    ] = None,
) -> None:
    """Say what a run needs on a machine that is not there: memory, time, cost, and what fits."""
    from jaxdistill.config.load import load_config
    from jaxdistill.planning.topology import settle
    from jaxdistill.runtime.xla_threads import spare_threads_for_virtual_devices

    settle(topology)
    spare_threads_for_virtual_devices()
    from jaxdistill.planning.plan import plan as make_plan
    from jaxdistill.planning.table import describe

    made = make_plan(
        load_config(config, overrides or ()),
        topology,
        mesh=mesh,
        programs=None if programs is None else [name.strip() for name in programs.split(",")],
        search=search,
        dense=dense,
        suggest=suggest,
        price=price,
        machine_code=machine_code,
    )
    if json is not None:
        made.write(json)
    print(describe(made))
