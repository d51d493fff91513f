"""What the README shows runs as it stands there; `tests/docs` checks its commands and configs."""

import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_library_use_is_short():
    assert len(BLOCKS[0].splitlines()) < 25


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


def test_its_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) > 10
    assert not [link for link in links if not (README.parent / link).is_file()]


def test_its_figures_are_those_of_the_docs():
    figures = (README.parent / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*`python benchmarks.*\|$", TEXT, flags=re.MULTILINE)
    assert rows
    assert set(rows) <= set(figures.splitlines())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_library_use_runs_under_jit_and_pmap(capsys):
    # A user has no such setting: the text must not depend on it.
    with jax.numpy_rank_promotion("allow"):
        names: dict = {}
        exec(BLOCKS[0], names)
        first = float(names["metrics"]["loss"].value())
        exec(BLOCKS[1], names)
    second = float(names["metrics"]["loss"].value())
    assert names["state"].step == 2
    assert second < first
    assert "loss" in capsys.readouterr().out
