"""Imports point down one list of rooms, without exceptions; planted violations are seen to fail."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import jaxdistill

PACKAGE = Path(jaxdistill.__file__).parent

FLOORS = (
    ("files", "losses", "parallel", "runtime"),
    ("config", "methods", "modalities", "tasks"),
    ("data",),
    ("models",),
    ("engine", "teachers", "generation"),
    ("setup",),
    ("evaluation",),
    ("doctor",),
    ("distill",),
    ("planning",),
    ("bench",),
    ("cli",),
)
"""From the ground up: a room imports from its own floor and lower ones, and nothing in a circle."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

IO = (
    "csv", "gzip", "h5py", "http", "io", "json", "mmap", "pathlib", "pickle", "requests", "shutil",
    "socket", "sqlite3", "subprocess", "tempfile", "urllib", "yaml", "zipfile",
    "datasets", "grain", "orbax", "safetensors", "tensorboardX", "tokenizers", "transformers",
    "wandb",
)  # fmt: skip
PURE = ("losses/", "engine/mean.py", "engine/objective.py", "engine/state.py", "engine/step.py")
"""What works on arrays alone: no files, no framework of modules."""


def module_of(file: str) -> str:
    """Return the dotted name of a file, named relative to the package."""
    return ".".join(["jaxdistill", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def imported(file: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import in a file, also those inside functions.

    `from a import b` yields `a.b`; relative imports are resolved against the file.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["jaxdistill", *Path(file).parts[:-1]]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def violations(file: str, source: str) -> list[str]:
    """List the imports of one file, named relative to the package, that point the wrong way."""
    room = Path(file).parts[0]
    found = []
    for line, name in imported(file, source):
        top, *rest = name.split(".")
        wrong = top == "typer" and room != "cli"
        wrong |= any(file.startswith(pure) for pure in PURE) and top in ("flax", *IO)
        wrong |= file in ("errors.py", "types.py") and top in ("jax", "flax", "numpy", "jaxdistill")
        if top == "jaxdistill" and rest and rest[0] in FLOOR and rest[0] != room and room in FLOOR:
            wrong |= FLOOR[rest[0]] > FLOOR[room]
        if wrong:
            found.append(f"{file}:{line} imports {name}")
    return found


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Return modules that import each other, at once or in turn."""
    found, done, path = [], set(), []

    def visit(module: str) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        if module in done or module in path:
            return
        path.append(module)
        for other in sorted(imports.get(module, ())):
            visit(other)
        path.pop()
        done.add(module)

    for module in sorted(imports):
        visit(module)
    return found


def sources() -> dict[str, str]:
    files = {
        path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")
    }
    assert len(files) > 100
    return files


def test_imports_point_down():
    found = [line for file, source in sources().items() for line in violations(file, source)]
    assert not found, "\n".join(found)


def test_every_room_has_its_floor():
    rooms = {Path(file).parts[0] for file in sources() if "/" in file}
    assert rooms == set(FLOOR)


def test_no_circles():
    files = sources()
    names = {module_of(file) for file in files}
    imports: dict[str, set[str]] = {}
    for file, source in files.items():
        # A package names its parts.
        if file.endswith("__init__.py"):
            continue
        found = [name for _, name in imported(file, source)]
        within = {name if name in names else name.rpartition(".")[0] for name in found}
        imports[module_of(file)] = within & names - {"jaxdistill"}
    assert not circles(imports)


def test_what_a_task_means_is_asked_of_its_record():
    asked = re.compile(r"\.task (==|!=|in)\b|\btask (==|!=) \"")
    assert asked.search('if config.task == "regression":')
    found = [
        f"{file}:{number}: {line.strip()}"
        for file, source in sources().items()
        if not file.startswith("tasks/")
        for number, line in enumerate(source.splitlines(), 1)
        if asked.search(line)
    ]
    assert not found, "\n".join(found)


def test_few_modules_stand_at_the_root():
    assert {file for file in sources() if "/" not in file} == {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "types.py",
    }


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/divergence.py", "import flax.nnx"),
        ("losses/divergence.py", "from pathlib import Path"),
        ("losses/divergence.py", "from jaxdistill.engine.mean import Mean"),
        ("losses/divergence.py", "from jaxdistill import config"),
        ("losses/divergence.py", "from ..engine import mean"),
        ("losses/fused/api.py", "from ...models import outputs"),
        ("losses/__init__.py", "from ..models import outputs"),
        ("engine/step.py", "from flax import nnx"),
        ("engine/step.py", "def f():\n    import json"),
        ("engine/state.py", "import orbax.checkpoint as ocp"),
        ("engine/loop.py", "from jaxdistill.evaluation import speed"),
        ("models/families/bert.py", "from jaxdistill.engine.loop import run"),
        ("teachers/targets.py", "import jaxdistill.distill.stages"),
        ("data/loader.py", "from ..evaluation.report import write"),
        ("data/loader.py", "import importlib\nimportlib.import_module('jaxdistill.cli.app')"),
        ("evaluation/report.py", "from jaxdistill.cli.app import app"),
        ("errors.py", "import jax"),
        ("types.py", "import numpy as np"),
        ("distill/stages.py", "import typer"),
        ("runtime/launch_local.py", "from typer import Typer"),
    ],
)
def test_a_planted_violation_is_found(file, source):
    assert violations(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/app.py", "import typer\nfrom jaxdistill.distill import stages"),
        ("losses/divergence.py", "import jax\nfrom jaxdistill.losses.numerics import kl_terms"),
        ("losses/__init__.py", "from .divergence import jsd\nfrom ..errors import ModelError"),
        ("engine/step.py", "from jaxdistill import losses\nfrom ..models.outputs import Outputs"),
        ("engine/step.py", "from .mean import Mean\nfrom jaxdistill.engine import state"),
        ("models/hub/convert.py", "import json\nfrom jaxdistill.parallel.sharding import rules"),
        ("losses/divergence.py", "import jsonless, iota"),
    ],
)
def test_what_is_allowed_passes(file, source):
    assert not violations(file, source)


def test_a_planted_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})
