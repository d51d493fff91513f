"""The command line: quick help, one-line errors, the right exit codes."""

import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from support.results import RESULT

from jaxdistill.cli import app as cli
from jaxdistill.doctor.findings import Finding
from jaxdistill.errors import CheckpointError, ConfigError, DataError, Preempted

HEAVY = ("jax", "transformers", "flax", "numpy", "sklearn", "scipy", "matplotlib", "datasets")


@pytest.fixture
def config_file(tmp_path) -> str:
    path = tmp_path / "mine.yaml"
    values = {
        "data": {"source": "digits"},
        "teacher": {"model": {"family": "cnn"}},
        "student": {"model": {"family": "mlp"}},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.fixture
def pipeline(monkeypatch) -> types.SimpleNamespace:
    """Stands where the stages are, so that a command line can be tried without training."""
    fake = types.SimpleNamespace(calls=[], error=None, findings=[])

    def run(config, workdir, *, until=None, force=False):
        fake.calls.append((config, workdir, until, force))
        if fake.error is not None:
            raise fake.error
        return RESULT

    def examine(config, workdir):
        return fake.findings

    module = types.ModuleType("jaxdistill.distill.stages")
    module.__dict__.update(run=run, examine=examine)
    monkeypatch.setitem(sys.modules, "jaxdistill.distill.stages", module)
    monkeypatch.setattr("jaxdistill.distill.stages", module, raising=False)
    return fake


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from jaxdistill.cli import app as cli\n"
        f"code = cli.call({arguments!r})\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_answers_in_half_a_second():
    code = "import sys; from jaxdistill.cli.app import call; sys.exit(call(['--help']))"
    seconds = []
    for _ in range(3):
        # Processor time: what else the machine is doing is not our delay.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = _python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert all(name in done.stdout for name in ("run", "finetune", "distill", "recipes"))
    assert min(seconds) < 0.5


def test_config_is_refused_before_anything_heavy_is_imported(config_file):
    code = (
        "import sys\n"
        "from jaxdistill.cli import app as cli\n"
        f"code = cli.call(['run', {config_file!r}, 'train.epoch=3'])\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(code)"
    )
    done = _python(code)
    assert done.returncode == 2
    assert done.stderr == "error: train.epoch: unknown key. Did you mean 'epochs'?\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "CONFIG"),
        (["fly"], "fly"),
        (["run", "x.yaml", "--frce"], "--frce"),
        (["run", "x.yaml", "--train.epochs", "2"], "are given without dashes: train.epochs=2"),
        (["run", "no/such.yaml"], "'no/such.yaml', expected a YAML file or one of the recipes"),
        (["run", "CONFIG", "train.epochs"], "expected key=value"),
        (["run", "CONFIG", "train.epochs=many"], "train.epochs: got 'many', expected a number"),
        (["distill", "CONFIG", "student.layers=[0]"], "student.layers: got both"),
        (["doctor", "CONFIG", "data=null"], "data.train: got nothing"),
    ],
)
def test_bad_command_lines_end_in_one_line(capsys, config_file, arguments, expected):
    code = cli.call([config_file if item == "CONFIG" else item for item in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\nb"), 2, "error: a b\n"),
        (DataError("empty"), 2, "error: empty\n"),
        (CheckpointError("damaged"), 4, "error: damaged\n"),
        (Preempted("saved at step 3"), 75, "stopped: saved at step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to go on\n"),
    ],
)
def test_exit_codes(capsys, tmp_path, config_file, pipeline, error, code, line):
    pipeline.error = error
    assert cli.call(["run", config_file, "--workdir", str(tmp_path / "w")]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [RuntimeError, EOFError])
def test_a_defect_of_ours_keeps_its_traceback(tmp_path, config_file, pipeline, kind):
    pipeline.error = kind("defect")  # an EOFError is of a file, and no end of the user's input
    with pytest.raises(kind, match="defect"):
        cli.call(["run", config_file, "--workdir", str(tmp_path)])


@pytest.mark.parametrize(
    ("command", "until"),
    [
        ("run", None),
        ("finetune", "finetune"),
        ("distill", "distill"),
        ("evaluate", "evaluate"),
        ("export", "export"),
        ("report", "report"),
    ],
)
def test_commands_call_their_stage(tmp_path, config_file, pipeline, command, until):
    where = tmp_path / "w"
    arguments = [command, config_file, "seeds=[5]", "--workdir", str(where), "train.epochs=2"]
    assert cli.call([*arguments, "--force"]) == 0
    ((config, workdir, stage, force),) = pipeline.calls
    assert (config.seeds, config.train.epochs) == ((5,), 2)
    assert (workdir, stage, force) == (where, until, True)


@pytest.mark.parametrize("command", ["run", "evaluate", "report"])
def test_a_run_ends_with_its_table_and_verdict(capsys, tmp_path, config_file, pipeline, command):
    assert cli.call([command, config_file, "--workdir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("teacher", "student alone", "student distilled"))
    assert shown.rstrip().endswith(RESULT["verdict"])
    assert cli.call(["distill", config_file, "--workdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_doctor_prints_findings_and_refuses_fatal_ones(capsys, tmp_path, config_file, pipeline):
    pipeline.findings = [Finding("ok", "size", "teacher 2, student 1")]
    assert cli.call(["doctor", config_file, "--workdir", str(tmp_path)]) == 0
    assert "teacher 2, student 1" in capsys.readouterr().out
    pipeline.findings = [*pipeline.findings, Finding("fatal", "length", "too long; cut it")]
    assert cli.call(["doctor", config_file, "--workdir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "teacher 2, student 1" in captured.out
    assert captured.err == "error: length: too long; cut it\n"


def test_default_workdir_is_named_after_the_config(tmp_path, config_file, pipeline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.call(["run", config_file]) == 0
    assert cli.call(["run", config_file, "name=other"]) == 0
    assert [workdir for _, workdir, _, _ in pipeline.calls] == [
        Path("runs/mine"),
        Path("runs/other"),
    ]


def test_a_work_directory_stands_for_its_config(capsys, tmp_path, config_file, pipeline):
    assert cli.call(["run", config_file, "seeds=[9]", "--print-config"]) == 0
    where = tmp_path / "finished"
    where.mkdir()
    (where / "config.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert cli.call(["report", str(where)]) == 0
    ((config, workdir, _, _),) = pipeline.calls
    assert workdir == where
    assert config.seeds == (9,)


def test_print_config_prints_and_stops(capsys, tmp_path, config_file, pipeline):
    where = tmp_path / "w"
    arguments = ["run", config_file, "train.learning_rate=1e-4", "--print-config"]
    assert cli.call([*arguments, "--workdir", str(where)]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["train"]["learning_rate"] == 1e-4
    assert shown["name"] == "mine"
    assert not pipeline.calls
    assert not where.exists()


def test_warnings_are_plain_lines_said_once():
    done = _python(
        "import logging, sys\n"
        "from jaxdistill.cli import app as cli\n"
        "cli.call = lambda arguments: [log.warning('head of %s is new', 'x') for _ in 'ab'] and 0\n"
        "logging.basicConfig()\n"
        "log = logging.getLogger('jaxdistill')\n"
        "cli.main()"
    )
    assert done.returncode == 0
    assert done.stderr == "warning: head of x is new\n"


def test_workdir_that_cannot_be_written(capsys, tmp_path, config_file, pipeline):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert cli.call(["run", config_file, "--workdir", str(tmp_path / "file" / "w")]) == 2
    assert "--workdir" in capsys.readouterr().err
    assert not pipeline.calls


def test_no_command_shows_help(capsys):
    cli.call([])
    assert "recipes" in capsys.readouterr().out


def test_recipes_lists_what_is_shipped(capsys):
    from jaxdistill.config.load import recipes

    assert cli.call(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in recipes())
