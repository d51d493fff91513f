"""The command line of several processes: their options on every command, and `launch`."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any, TypeVar

import typer

from jaxdistill.errors import ConfigError
from jaxdistill.runtime.settings import ProcessSettings, to_environment, variable

_PANEL = "Several processes"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _option(flag: str, field: str, help: str, **options: Any) -> Any:
    return typer.Option(
        flag,
        help=help,
        envvar=variable(field),
        show_envvar=False,
        show_default=False,
        rich_help_panel=_PANEL,
        **options,
    )


_OPTIONS = {
    "coordinator": (
        str,
        _option(
            "--coordinator",
            "coordinator",
            "Where process 0 runs; not needed on Cloud TPU, GKE, SLURM and Open MPI.",
            metavar="HOST:PORT",
        ),
    ),
    "processes": (int, _option("--processes", "processes", "How many there are.", metavar="N")),
    "process_id": (
        int,
        _option("--process-id", "process_id", "Which of them this is, from 0.", metavar="I"),
    ),
    "initialization_seconds": (
        float,
        _option(
            "--initialization-timeout",
            "initialization_seconds",
            "Seconds until all have started [300].",
            metavar="S",
        ),
    ),
    "heartbeat_seconds": (
        float,
        _option(
            "--heartbeat-timeout",
            "heartbeat_seconds",
            "Seconds of silence after which one counts as dead [60].",
            metavar="S",
        ),
    ),
    "shutdown_seconds": (
        float,
        _option(
            "--shutdown-timeout",
            "shutdown_seconds",
            "Seconds that the first to end waits for the last [300].",
            metavar="S",
        ),
    ),
}


def of_several(command: _Command) -> _Command:
    """Give a command the options that say which of several processes this is.

    They have the same effect as the variables of the environment, which they set.
    """
    signature = inspect.signature(command)
    extra = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, option],  # pyright: ignore[reportInvalidTypeForm]
        )
        for name, (kind, option) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        values = {name: named.pop(name, None) for name in _OPTIONS}
        given = {name: value for name, value in values.items() if value is not None}
        os.environ.update(to_environment(ProcessSettings(**given)) if given else {})
        return command(*arguments, **named)

    hints = inspect.get_annotations(command, eval_str=True)
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
    ]
    wrapped.__signature__ = signature.replace(parameters=[*parameters, *extra])  # pyright: ignore
    wrapped.__annotations__ = hints | {each.name: each.annotation for each in extra}
    del wrapped.__wrapped__
    return wrapped  # pyright: ignore[reportReturnType]


def among_others(work: Callable[[], int]) -> int:
    """Run a command line, and part from the other processes, if there are any, by its exit code."""
    code = 1
    try:
        code = work()
    except Exception as error:
        if (processes := _started()) is not None:
            processes.await_blame(error)
        traceback.print_exc()
    finally:
        if (processes := _started()) is not None:
            processes.leave(code)
    return code


def _started() -> ModuleType | None:
    # Only a command that computes has imported it, and so can have joined others.
    return sys.modules.get("jaxdistill.runtime.group")


def launch(
    context: typer.Context,
    local_processes: Annotated[
        int | None,
        typer.Option(
            "--local-processes",
            metavar="N",
            help="Number of processes to start on this machine.",
            min=1,
        ),
    ] = None,
    devices_per_process: Annotated[
        int | None,
        typer.Option(
            "--devices-per-process",
            metavar="N",
            help="Number of GPUs of each process, or of virtual CPU devices where there are none.",
            min=1,
        ),
    ] = None,
    heartbeat_timeout: Annotated[
        float | None,
        typer.Option(
            "--heartbeat-timeout",
            metavar="S",
            help="Seconds without a sign of life after which a process counts as lost.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--print",
            metavar="gke|slurm|tpu|gpu",
            help="Kind of cluster to print a JobSet manifest or a script for, instead of starting.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Value of the manifest or script, e.g. topology=v5e:16x16.",
        ),
    ] = None,
) -> None:
    """Start another command as several processes, e.g. `launch --local-processes 2 run CONFIG`."""
    command = list(context.args)
    if not command or command[0].startswith("-") or command[0] == "launch":
        got = repr(command[0]) if command else "nothing"
        raise ConfigError(
            f"launch: got {got}, expected a command behind its options, e.g. "
            "jaxdistill launch --local-processes 2 run CONFIG"
        )
    if recipe is not None:
        from jaxdistill.runtime.cluster_manifests import render

        print(render(recipe, command, settings or ()), end="")
        return
    if local_processes is None:
        raise ConfigError(
            "launch: got neither --local-processes N nor --print RECIPE, expected one of them"
        )
    from jaxdistill.runtime.launch_local import launch as launch_here

    code = launch_here(
        command,
        processes=local_processes,
        devices=devices_per_process,
        heartbeat_seconds=heartbeat_timeout,
    )
    raise typer.Exit(code)


LAUNCH_CONTEXT = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
"""Everything behind the options of `launch` belongs to the command that it starts."""
