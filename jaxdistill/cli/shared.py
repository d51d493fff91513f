"""What commands share: arguments and options, loading the config, settling the process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxdistill.errors import ConfigError

if TYPE_CHECKING:
    from jaxdistill.config.schema import Config

Source = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, the name of a recipe, or a work directory."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Values that replace the config's, e.g. student.layers=[0,2,4].",
    ),
]
Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir",
        help="Folder for everything that the run writes.",
        show_default="runs/<config name>",
    ),
]


def settle_host() -> None:
    """Set what XLA reads of the process: only before jax is imported."""
    from jaxdistill.runtime.malloc import keep_freed_memory
    from jaxdistill.runtime.xla_threads import spare_threads_for_virtual_devices

    spare_threads_for_virtual_devices()
    obstacle = keep_freed_memory()
    from jaxdistill.runtime import group

    group.start()
    if obstacle is not None:
        from jaxdistill.engine.telemetry import say

        say(f"run  every step on CPU maps its memory anew: {obstacle}")


def prepare(source: str, overrides: list[str] | None, workdir: Path | None) -> tuple[Config, Path]:
    """Load the config; a work directory stands for the config it was run with."""
    from jaxdistill.config.load import load_config

    saved = Path(source) / "config.yaml"
    if saved.is_file():
        return load_config(str(saved), overrides or ()), workdir or Path(source)
    config = load_config(source, overrides or ())
    return config, workdir or Path("runs") / config.name


def show_config(config: Config) -> None:
    """Print the whole config."""
    from jaxdistill.config.load import dump

    print(dump(config), end="")


def writable(folder: Path, config: Config) -> Config:
    """Find out now, not after an hour of training, whether the work directory can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # Several processes may look at once.
    except OSError as error:
        raise ConfigError(
            f"workdir: cannot write to {str(folder)!r} ({error.strerror}); "
            "give another one with --workdir PATH"
        ) from None
    return config
