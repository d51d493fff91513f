"""The command line: parse, load the config, call a stage or a tool; nothing else."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxdistill import __version__
from jaxdistill.cli import bench, plan
from jaxdistill.cli.launch import LAUNCH_CONTEXT, among_others, launch, of_several
from jaxdistill.cli.shared import (
    Overrides,
    Source,
    Workdir,
    prepare,
    settle_host,
    show_config,
    writable,
)
from jaxdistill.errors import ConfigError, JaxDistillError, Preempted
from jaxdistill.types import Json

if TYPE_CHECKING:
    pass

_INTERRUPTED = 130

app = typer.Typer(
    name="jaxdistill",
    help="Distil a large model into a small one: fine-tune the teacher, train the student with and "
    "without it, compare, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved config and stop.")
]
Force = Annotated[bool, typer.Option("--force", help="Redo stages whose settings changed.")]


def _stage(name: str, until: str | None, purpose: str) -> None:
    """Add a command that runs the stages up to one."""

    def command(
        config: Source,
        overrides: Overrides = None,
        workdir: Workdir = None,
        print_config: PrintConfig = False,
        force: Force = False,
    ) -> None:
        _run_until(until, config, overrides, workdir, print_config, force)

    app.command(name, help=purpose)(of_several(command))


_stage("run", None, "Take every stage in order, then print the table and the verdict.")
for _name, _purpose in {
    "finetune": "Fine-tune the teacher on the task.",
    "distill": "Train the student from the teacher, after all that it needs.",
    "evaluate": "Compare teacher, student alone and distilled student, after all that it needs.",
    "export": "Write the distilled student as a Hugging Face folder, after all that it needs.",
    "report": "Write report.html, after all that it needs.",
}.items():
    _stage(_name, _name, _purpose)


@app.command()
@of_several
def cache(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A YAML file, a recipe or a work directory; not needed with --inspect.",
        ),
    ] = None,
    overrides: Overrides = None,
    workdir: Workdir = None,
    print_config: PrintConfig = False,
    force: Force = False,
    inspect: Annotated[
        Path | None,
        typer.Option(
            "--inspect",
            metavar="PATH",
            help="Folder of a cache to describe instead: what it holds and costs.",
        ),
    ] = None,
) -> None:
    """Keep the teacher's outputs over the training data on disk, for teacher.cache=PATH."""
    if inspect is not None:
        from jaxdistill.distill.cache_stage import describe
        from jaxdistill.teachers.cache.reader import inspect as look_into

        print(describe(look_into(inspect)))
    elif config is None:
        raise ConfigError("cache: got neither CONFIG nor --inspect PATH, expected one of them")
    else:
        _run_until("cache", config, overrides, workdir, print_config, force)


@app.command()
@of_several
def generate(
    config: Source,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="File of JSON lines to write; by default WORKDIR/texts.jsonl.",
        ),
    ] = None,
    workdir: Workdir = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Let the teacher write texts for a student to learn from, to be read as data.train=FILE."""
    resolved, folder = prepare(config, overrides, workdir)
    if print_config:
        return show_config(resolved)
    settle_host()
    from jaxdistill.distill import texts_stage

    path = output or folder / "texts.jsonl"
    texts_stage.write(writable(folder, resolved), folder, path, force=force)
    return None


@app.command()
def doctor(
    config: Source,
    overrides: Overrides = None,
    workdir: Workdir = None,
    print_config: PrintConfig = False,
) -> None:
    """Check data, teacher and student against each other before training."""
    resolved, folder = prepare(config, overrides, workdir)
    if print_config:
        return show_config(resolved)
    settle_host()
    from rich.console import Console

    from jaxdistill.distill import stages
    from jaxdistill.doctor.doctor import findings_table, stop_if_fatal

    findings = stages.examine(writable(folder, resolved), folder)
    Console().print(findings_table(findings))
    return stop_if_fatal(findings)


app.command()(plan.plan)
app.command()(of_several(bench.bench))


@app.command()
def methods() -> None:
    """List every model family, loss, schedule, optimizer and data source with its paper."""
    from jaxdistill.cli.catalogue import describe_methods

    print(describe_methods())


@app.command()
def recipes() -> None:
    """List the configs that come with jaxdistill."""
    from rich.console import Console
    from rich.table import Table

    from jaxdistill.config.load import describe_recipes

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, description in describe_recipes().items():
        table.add_row(name, description)
    Console().print(table)


app.command(context_settings=LAUNCH_CONTEXT)(launch)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line of this process."""
    _say_warnings_once()
    sys.exit(among_others(lambda: call(sys.argv[1:])))


def call(arguments: list[str]) -> int:
    """Run one command line; what a user can cause ends in one line on stderr and an exit code."""
    usage_error = typer.BadParameter.__mro__[1]
    try:
        code = app(arguments, standalone_mode=False) or 0
    except JaxDistillError as error:
        return _fail(error, error.exit_code)
    except Preempted as stop:
        return _fail(stop, stop.exit_code, "stopped")
    except (KeyboardInterrupt, typer.Abort) as stop:
        if isinstance(stop.__cause__, EOFError):  # of a file, which typer takes for the user's
            raise stop.__cause__ from None
        code = _INTERRUPTED
    except Exception as error:
        if not isinstance(error, usage_error):
            raise
        message = str(getattr(error, "format_message", error.__str__)())
        if re.search(r"--\w+\.\w", message):
            message += " Values of the config are given without dashes: train.epochs=2"
        return _fail(message, 2)
    # Typer turns the interrupt of a running command into this code.
    if code == _INTERRUPTED:
        return _fail("run the same command again to go on", code, "interrupted")
    return code


def _say_warnings_once() -> None:
    """Show what the package logs as plain lines on stderr, each of them once."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in shown:
            return False
        shown.add(message)
        record.levelname = record.levelname.lower()
        return True

    handler = logging.StreamHandler()
    handler.addFilter(is_new)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("jaxdistill")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Libraries put their handlers on the root.


def _fail(reason: object, code: int, kind: str = "error") -> int:
    print(f"{kind}: {' '.join(str(reason).split())}", file=sys.stderr)
    return code


def _run_until(
    stage: str | None,
    source: str,
    overrides: list[str] | None,
    workdir: Path | None,
    print_config: bool,
    force: bool,
) -> None:
    config, folder = prepare(source, overrides, workdir)
    if print_config:
        return show_config(config)
    settle_host()
    from jaxdistill.distill import stages

    result = stages.run(writable(folder, config), folder, until=stage, force=force)
    if stage in (None, "evaluate", "export", "report"):
        _show_result(result)
    return None


def _show_result(result: Json) -> None:
    import jax
    from rich.console import Console

    from jaxdistill.evaluation.speed import result_table

    if jax.process_index() == 0:
        Console().print(result_table(result))
        print(result["verdict"])


if __name__ == "__main__":
    main()
