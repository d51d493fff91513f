"""What users read of a setting stands alone: it needs no other line to be understood."""

import ast
import re
from pathlib import Path

import pytest
import typer

import jaxdistill
from jaxdistill.cli.app import app

PACKAGE = Path(jaxdistill.__file__).parent
DANGLING = re.compile(r"(?i)(of|and|whose|that|those|its|their|the same|it|as for|see)\b")
"""Words that a phrase begins with when it leans on the line above."""


def settings() -> dict[str, str | None]:
    """Return what the docstring under every field of a section says, by `Section.field`."""
    found = {}
    for path in [*(PACKAGE / "config").glob("*.py"), *(PACKAGE / "methods").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    told = after.value if isinstance(after, ast.Expr) else None
                    text = told.value if isinstance(told, ast.Constant) else None
                    found[f"{node.name}.{ast.unparse(field.target)}"] = text
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


def test_every_setting_says_what_it_is():
    silent = [
        name
        for name, text in settings().items()
        if text is None and not name.startswith("Method.")  # whose docstring has them all
    ]
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
