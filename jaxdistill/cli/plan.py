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
        str, typer.Option("--topology", help="v5e:16x16, v5p:4x4x4, v6e:8x8, v4:4x4x4, cpu:8, gpu.")
    ] = "cpu:1",
    mesh: Annotated[
        str | None, typer.Option("--mesh", help="Instead of the config's: data=16,fsdp=16.")
    ] = None,
    programs: Annotated[
        str | None,
        typer.Option(
            "--programs", help="Of joint,cached,finetune,baseline,generate; by default one step."
        ),
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Rank meshes and microbatches.")] = False,
    dense: Annotated[bool, typer.Option(help="Compile with dense losses, too, to compare.")] = True,
    suggest: Annotated[
        bool, typer.Option(help="Look for the smallest change where it does not fit.")
    ] = True,
    price: Annotated[
        float | None, typer.Option("--price", help="Of a chip and hour, for cost per tokens.")
    ] = None,
    machine_code: Annotated[
        bool,
        typer.Option("--machine-code", help="For TPUs: compile to the end, which takes minutes."),
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write everything here.")
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
