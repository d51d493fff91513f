"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, the name of a recipe, or a work directory."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Config values, e.g. student.layers=[0,2,4]."),
]
Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir", help="Where everything is written.", show_default="runs/<config name>"
    ),
]
