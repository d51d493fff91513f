"""The code, configs and command lines of README and docs are run or checked as they stand there."""

import copy
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
import yaml

import jaxdistill
from jaxdistill.cli.app import app
from jaxdistill.config.load import apply_override, check, load_config
from jaxdistill.config.schema import Config
from jaxdistill.config.values import read_yaml
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.data.dataset import prepare
from jaxdistill.errors import ConfigError
from jaxdistill.models.outputs import Outputs
from jaxdistill.teachers.function import speak

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("TRL", "torchdistill", "MaxText", "my_package")
"""Titles of blocks that are written for other tools, or need another package."""

REGISTRIES = (
    "config.sources",
    "config.teacher_functions",
    "engine.hooks",
    "methods.registry",
    "modalities.registry",
    "models.registered",
    "tasks.registry",
)
STAGES = ("run", "finetune", "distill", "evaluate", "export", "report", "cache", "generate")

BASES = [
    {
        "data": {"source": "digits"},
        "teacher": {"model": {"family": "cnn"}},
        "student": {"model": {"family": "mlp"}},
    },
    {"data": {"train": "train.tsv"}, "teacher": {"model": "folder"}, "student": {"layers": 2}},
    {
        "task": "language_model",
        "data": {"train": "corpus.jsonl"},
        "teacher": {"model": "folder"},
        "student": {"layers": 2},
    },
]
"""A part of a config is checked as a change of one of these."""


def blocks(path: Path, *languages: str) -> list[tuple[str, str]]:
    """Return (rest of the opening line, text) of the blocks in these languages."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [(rest.strip(), text) for language, rest, text in found if language in languages]


def is_elsewhere(rest: str) -> bool:
    return any(f'title="{name}"' in rest for name in ELSEWHERE)


def pages(*languages: str) -> list:
    return [pytest.param(path, id=path.stem) for path in PAGES if blocks(path, *languages)]


def commands(path: Path) -> list[str]:
    """Return every `jaxdistill …` of a page, of blocks and within lines."""
    text = path.read_text(encoding="utf-8")
    lines = [line for _, block in blocks(path, "bash", "") for line in block.splitlines()]
    inline = re.findall(r"`(jaxdistill [^`]*)`", BLOCK.sub("", text))
    found = []
    for line in [*lines, *inline]:
        line = re.sub(r"\s+#.*$", "", line)
        found += [
            part.strip() for part in line.split("&&") if part.strip().startswith("jaxdistill")
        ]
    return found


def merged(base: dict, change: dict) -> dict:
    both = dict(base)
    for key, value in change.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and key == "data" else value
    return both


def check_config(values: dict) -> None:
    """Check a whole config, or a part as a change of one that is whole."""
    if {"data", "teacher", "student"} <= set(values):
        check(values)
        return
    faults = []
    for base in BASES:
        try:
            check(merged(base, values))
        except ConfigError as error:
            faults.append(str(error))
        else:
            return
    raise ConfigError("\n".join(faults))


def check_command(line: str) -> None:
    """Parse a command line as the program does, and load its config where it names a real one."""
    words = [word for word in shlex.split(line)[1:] if word not in ("…", "...")]
    if not words or words[0].startswith("-"):
        return
    command = typer.main.get_command(app).commands[words[0]]
    if words[0] == "launch":
        inner = next((i for i, word in enumerate(words) if i and word in STAGES), None)
        if inner is not None:
            check_command(shlex.join(["jaxdistill", *words[inner:]]))
        options = {name for option in command.params for name in option.opts}
        given = [word for word in words[1:inner] if word.startswith("--")]
        assert set(given) <= options, f"unknown options of launch: {set(given) - options}"
        return
    if len(words) == 1:
        return  # a mention of the command
    numbers = {"N": "2", "I": "0", "HOST:PORT": "host:8476"}
    context = command.make_context(words[0], [numbers.get(word, word) for word in words[1:]])
    source, overrides = context.params.get("config"), context.params.get("overrides") or ()
    if source is not None and source != "CONFIG":
        load_config(str(ROOT / source) if "/" in source else source, overrides)
        return
    for override in overrides:
        check_key(override.split("=")[0])


def check_key(key: str) -> None:
    """Refuse a key that no config has, whatever its value."""
    apply_override(values := {}, f"{key}=null")
    with pytest.raises(ConfigError) as found:
        check(values)  # which lacks the rest of a config
    assert "unknown key" not in str(found.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("page", pages("python")[1:])  # the README has its own test
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for home in REGISTRIES:  # what a page registers is gone with it
        module = importlib.import_module(f"jaxdistill.{home}")
        monkeypatch.setattr(module, "_REGISTERED", copy.copy(module._REGISTERED))
    names: dict = {}
    # A user has no such setting: the text must not depend on it.
    with jax.numpy_rank_promotion("allow"):
        for rest, text in blocks(page, "python"):
            code = compile(text, f"{page.name}", "exec")
            if not is_elsewhere(rest):
                exec(code, names)
        assert page.name != "extending-method.md" or hints_are_computed(page, names)
    assert page.name != "teachers.md" or forest_teaches(names)
    assert page.name != "extending-input.md" or table_is_read(page)
    assert page.name != "extending-teacher.md" or ink_teaches(page)


def forest_teaches(names: dict) -> bool:
    assert names["state"].step == 14
    taught = names["cache"].decode(names["cache"].read([5])[0])
    expected = names["forest"].predict_proba(names["x"][5:6])
    np.testing.assert_allclose(jax.nn.softmax(taught), expected, atol=1e-4)
    return True


def table_is_read(page: Path) -> bool:
    """Read a table as the config of the page says, with the kind of input that it registered."""
    rows = ["age,income,city,label", "20,1,a,n", "40,1,b,y", "60,1,a,n", "80,1,b,y"]
    Path("people.csv").write_text("\n".join(rows) + "\n")
    Path("held.csv").write_text("age,income,city,label\n50,1,c,n\n")
    values = yaml.safe_load(blocks(page, "yaml")[0][1])
    config = check(merged(values, {"data": {"validation": "held.csv"}}))
    data = prepare(config.data, task=config.task, tokenizer_folder=None)
    (batch,) = eval_batches(data.validation, batch_size=1, config=config.data)
    np.testing.assert_allclose(batch["numbers"], [[0, 0]], atol=1e-6)
    assert batch["categories"].tolist() == [[0]]
    assert batch["features"].shape == (1, 2 + 16)
    return data.modality == "table"


def hints_are_computed(page: Path, names: dict) -> bool:
    """Compute both formulas of the page as a step calls them, with the options of its config."""
    (values,) = (yaml.safe_load(text) for _, text in blocks(page, "yaml"))
    config = check(merged(BASES[0], values))
    options = config.terms["hint"].options
    draw = np.random.default_rng(0)
    student = Outputs(features={"layers.0.hidden": jnp.array(draw.normal(size=(2, 3)))})
    teacher = Outputs(features={"layers.1.hidden": jnp.array(draw.normal(size=(2, 5, 5, 4)))})
    maps = [draw.normal(size=(3, options["width"])), draw.normal(size=(options["width"], 4))]
    batch = {"weight": np.ones(2, np.float32)}
    given = {"maps": maps, "step": 0, **options}
    ours = np.asarray(student.features["layers.0.hidden"])
    theirs = np.asarray(teacher.features["layers.1.hidden"]).mean((1, 2))
    mapped = np.maximum(ours @ maps[0], 0) @ maps[1]
    found = names["hint"](student, teacher, batch, **given)
    np.testing.assert_allclose(found.value(), np.mean((mapped - theirs) ** 2), rtol=1e-5)
    state = {"mean": np.zeros(4)}
    found, after = names["centered"](student, teacher, batch, state=state, **given)
    mean = 0.1 * theirs.mean(0)
    np.testing.assert_allclose(after["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(found.value(), np.mean((mapped - theirs + mean) ** 2), rtol=1e-5)
    return config.terms["hint"].method.maps is names["maps"]


def ink_teaches(page: Path) -> bool:
    """Ask the function of the page for logits as its config says."""
    (values,) = (yaml.safe_load(text) for _, text in blocks(page, "yaml"))
    config = check(merged(BASES[0], values))
    data = prepare(config.data, task=config.task, tokenizer_folder=None)
    logits = speak(config, data.validation, data.num_labels)
    (batch,) = eval_batches(data.validation, batch_size=len(logits), config=config.data)
    pixels = batch["images"].reshape(len(logits), -1)
    np.testing.assert_allclose(logits[:, 0], 4 * pixels[:, :7].mean(1), rtol=1e-5)
    return logits.shape[1] == 10


@pytest.mark.parametrize("page", pages("yaml"))
def test_configs_are_valid(page):
    for rest, text in blocks(page, "yaml"):
        if is_elsewhere(rest):
            assert isinstance(yaml.safe_load(text), dict)
        else:
            check_config(read_yaml(text, Config, where=page.name))


@pytest.mark.parametrize("page", [pytest.param(path, id=path.stem) for path in PAGES])
def test_commands_are_known(page):
    for line in commands(page):
        check_command(line)


def test_configs_shown_whole_are_those_of_the_recipes():
    shown = [text for _, text in blocks(ROOT / "docs" / "first-run.md", "yaml")]
    recipe = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())
    assert recipe in [yaml.safe_load(text) for text in shown]


@pytest.mark.parametrize(
    "values", [{"train": {"learning_rat": 1e-4}}, {"objective": {"soft": {"loss": "kl"}}}]
)
def test_a_planted_config_fault_is_found(values):
    with pytest.raises(ConfigError):
        check_config(values)


@pytest.mark.parametrize(
    "line",
    [
        "jaxdistill rum CONFIG",
        "jaxdistill run CONFIG --worker runs/x",
        "jaxdistill run CONFIG train.learning_rat=1",
        "jaxdistill run configs/digits.yaml train.epochs=many",
        "jaxdistill launch --locals 2 run CONFIG",
    ],
)
def test_a_planted_command_fault_is_found(line):
    usage_error = typer.BadParameter.__mro__[1]
    with pytest.raises((KeyError, ConfigError, AssertionError, usage_error)):
        check_command(line)


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert {getattr(jaxdistill, name) for name in jaxdistill.__all__ if name not in NOT_SHOWN} <= {
        resolved(name) for name in shown if not is_module(name)
    }
    modules = {name for name in shown if is_module(name)}
    for name in jaxdistill.losses.__all__:
        home = f"{getattr(jaxdistill.losses, name).__module__}"
        assert home in modules or f"{home}.{name}" in shown, name


def test_files_that_are_named_exist():
    for page in (ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("extending*.md")):
        named = re.findall(r"`((?:tests|jaxdistill)/[\w/.]+)`", page.read_text(encoding="utf-8"))
        assert named, page.name
        assert not [name for name in named if not (ROOT / name).exists()]


NOT_SHOWN = ("__version__", "losses")


def resolved(name: str) -> object:
    home, _, last = name.rpartition(".")
    return getattr(importlib.import_module(home), last)


def is_module(name: str) -> bool:
    return importlib.util.find_spec(name.rpartition(".")[0]) is not None and (
        (ROOT / Path(*name.split("."))).with_suffix(".py").is_file()
    )
