"""What users read of a setting stands alone: it needs no other line to be understood."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import jaxdistill
from jaxdistill.cli.app import app

PACKAGE = Path(jaxdistill.__file__).parent
DANGLING = re.compile(r"(?i)(of|and|whose|that|those|its|their|the same|it|as for|see)\b")
"""Words that a phrase begins with when it leans on the line above."""
ROOMS = (
    "bench", "cli", "config", "data", "distill", "doctor", "engine", "evaluation", "files",
    "generation", "losses", "methods", "modalities", "models", "parallel", "planning", "runtime",
    "setup", "tasks", "teachers",
)  # fmt: skip
"""Rooms in which every entry of a docstring says by itself what the thing is."""
ENTRY = re.compile(r"  ([`*\w, ]+): (.*)")


def settings() -> dict[str, str | None]:
    """Return what is said of every field of a section or record, by `Section.field`.

    It stands under the field, or in the docstring of the class.
    """
    found = {}
    for path in [*(PACKAGE / "config").glob("*.py"), *(PACKAGE / "methods").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            listed = entries(ast.get_docstring(node) or "")
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    told = after.value if isinstance(after, ast.Expr) else None
                    text = told.value if isinstance(told, ast.Constant) else None
                    name = ast.unparse(field.target)
                    found[f"{node.name}.{name}"] = text or listed.get(name)
    return found


def options() -> dict[str, str]:
    """Return the help of every option and argument, by command and name."""
    commands = typer.main.get_command(app).commands
    return {
        f"{name} {option.name}": option.help or ""
        for name, command in commands.items()
        for option in command.params
        if option.name != "help"
    }


def entries(documented: str) -> dict[str, str]:
    """Return how each entry under `Attributes:` and `Args:` of a docstring begins, by name."""
    found, listed = {}, False
    for line in inspect.cleandoc(documented).splitlines():
        if line and not line.startswith(" "):
            listed = line in ("Attributes:", "Args:")
        elif listed and (entry := ENTRY.match(line)):
            found |= dict.fromkeys(entry[1].replace("`", "").split(", "), entry[2])
    return found


def leaning(documented: str) -> list[str]:
    """List the entries of a docstring that begin with a word that leans on another line."""
    return [
        f"{name}: {text}"
        for name, text in entries(documented).items()
        if DANGLING.match(text) or re.match(r"(?i)as\b", text)
    ]


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the place and the docstring of every class and function of the rooms."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds) and (documented := ast.get_docstring(node, clean=False)):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.name}", documented


def test_entries_of_docstrings_stand_alone():
    found = dict(docstrings())
    assert sum(len(entries(documented)) for documented in found.values()) > 500
    faults = [f"{place}: {line}" for place, text in found.items() for line in leaning(text)]
    assert not faults, "\n".join(faults)


def test_an_entry_that_leans_on_another_is_found():
    documented = """Build it.

    Args:
      seed: of the parameters.
      head: see `Options`.
      rate: rate of dropout, whose default is 0;
        of no use at 0.
      axis: as in `forward_kl`.

    Raises:
      ModelError: it cannot be built.
    """
    assert [line.split(":")[0] for line in leaning(documented)] == ["seed", "head", "axis"]
    assert list(entries(documented)) == ["seed", "head", "rate", "axis"]


def test_every_setting_says_what_it_is():
    silent = [name for name, text in settings().items() if text is None]
    assert not silent, silent


@pytest.mark.parametrize("said", [settings, options])
def test_help_stands_alone(said):
    found = {name: text for name, text in said().items() if text and DANGLING.match(text)}
    assert len(said()) > 40
    assert not found, found


def test_a_phrase_that_leans_on_another_is_found():
    assert DANGLING.match("Of the parameters.")
    assert DANGLING.match("whose spread tells noise")
    assert not DANGLING.match("Seed of the initial parameters")
    assert not DANGLING.match("Offset in pixels")
