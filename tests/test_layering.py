"""Imports point one way; a planted violation of each rule is seen to fail."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import jaxdistill

PACKAGE = Path(jaxdistill.__file__).parent

IO = (
    "csv", "gzip", "h5py", "http", "io", "json", "mmap", "pathlib", "pickle", "requests", "shutil",
    "socket", "sqlite3", "subprocess", "tempfile", "urllib", "yaml", "zipfile",
    "datasets", "grain", "orbax", "safetensors", "tensorboardX", "tokenizers", "transformers",
    "wandb",
)  # fmt: skip
_COMMANDS = ("cli", "cli_bench", "cli_options", "cli_plan", "cli_pod")
COMMANDS = tuple(f"jaxdistill.{name}" for name in _COMMANDS)
TOP = ("jaxdistill.inspect", "jaxdistill.distill.stages", *COMMANDS)
CORE = tuple(f"engine/{name}.py" for name in ("reduce", "objective", "state", "step"))
ABOVE_CORE = (
    "jaxdistill.models", "jaxdistill.teacher", "jaxdistill.data", "jaxdistill.config.schema",
    "jaxdistill.config.objective",
    "jaxdistill.engine", *TOP,
)  # fmt: skip
CORE_MODULES = tuple(f"jaxdistill.{name[:-3].replace('/', '.')}" for name in CORE)

# (files, what they may not import, the exceptions)
RULES = (
    (("losses/*",), ("flax", *IO), ()),
    (("losses/*",), ("jaxdistill",), ("jaxdistill.losses", "jaxdistill.errors")),
    (CORE, ("flax", *IO), ()),
    (CORE, ABOVE_CORE, (*CORE_MODULES, "jaxdistill.models.outputs")),
    (("models/*", "teacher/*", "data/*"), ("jaxdistill.engine.loop", *TOP), ()),
    (("engine/*",), TOP, ()),
    (("inspect/*", "pipeline.py"), COMMANDS, ()),
    (("errors.py",), ("jaxdistill", "jax", "flax"), ()),
    (("*",), ("typer",), ()),
)
ALLOWED = {"typer": tuple(f"{name}.py" for name in _COMMANDS)}


def imported(source: str, module: str, *, package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import in `source`, also those inside functions.

    `from a import b` yields `a.b`, which a rule for `a` or for `a.b` matches; relative imports are
    resolved against `module`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + package]
                base = ".".join([*parents, *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def violations(file: str, source: str) -> list[str]:
    """List the imports of one file, named relative to the package, that point the wrong way."""
    parts = ["jaxdistill", *Path(file).with_suffix("").parts]
    package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if package else parts)
    found = []
    for line, name in imported(source, module, package=package):
        for files, forbidden, exceptions in RULES:
            applies = any(fnmatch(file, pattern) for pattern in files)
            if not applies or not within(name, forbidden) or within(name, exceptions):
                continue
            if file not in ALLOWED.get(name.split(".")[0], ()):
                found.append(f"{file}:{line} imports {name}")
    return found


def test_imports_point_one_way():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    found = [
        violation
        for path in files
        for violation in violations(path.relative_to(PACKAGE).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/divergence.py", "import flax.nnx"),
        ("losses/divergence.py", "from pathlib import Path"),
        ("losses/divergence.py", "from jaxdistill.engine.reduce import Mean"),
        ("losses/divergence.py", "from jaxdistill import config"),
        ("losses/divergence.py", "from ..engine import reduce"),
        ("losses/__init__.py", "from ..models import outputs"),
        ("engine/step.py", "from flax import nnx"),
        ("engine/step.py", "def f():\n    import json"),
        ("engine/state.py", "import orbax.checkpoint as ocp"),
        ("engine/objective.py", "from jaxdistill.models.bert import apply"),
        ("engine/objective.py", "from .loop import run"),
        ("engine/reduce.py", "from jaxdistill.engine import checkpoint"),
        ("models/bert.py", "from jaxdistill.engine import loop"),
        ("models/bert.py", "from jaxdistill.engine.loop import run"),
        ("teacher/live.py", "import jaxdistill.pipeline"),
        ("data/loader.py", "from ..inspect.report import write"),
        ("data/loader.py", "import importlib\nimportlib.import_module('jaxdistill.cli.app')"),
        ("engine/loop.py", "from jaxdistill.inspect import evaluate"),
        ("inspect/report.py", "from jaxdistill.cli import app"),
        ("errors.py", "import jax"),
        ("pipeline.py", "import typer"),
        ("inspect/cli.py", "from typer import Typer"),
        ("launching/local.py", "import typer"),
    ],
)
def test_a_planted_violation_is_found(file, source):
    assert violations(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli.py", "import typer\nfrom jaxdistill import pipeline"),
        ("losses/divergence.py", "import jax\nfrom jaxdistill.losses.numerics import kl_terms"),
        ("losses/__init__.py", "from .divergence import jsd\nfrom ..errors import ModelError"),
        (
            "engine/step.py",
            "from jaxdistill import losses\nfrom jaxdistill.models.outputs import O",
        ),
        ("engine/step.py", "from .reduce import Mean\nfrom jaxdistill.engine import state"),
        ("models/hub.py", "import json\nfrom jaxdistill.engine.parallel import rules"),
        ("losses/divergence.py", "import jsonless, iota"),
    ],
)
def test_what_is_allowed_passes(file, source):
    assert not violations(file, source)
