"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_library_use_is_short():
    assert len(BLOCKS[0].splitlines()) < 25


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


@pytest.mark.slow
def test_a_forest_is_the_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_rank_promotion("allow"):
        exec(BLOCKS[0], names)
        exec(BLOCKS[2], names)
    assert names["state"].step == 14
    taught = names["cache"].decode(names["cache"].read([5])[0])
    expected = names["forest"].predict_proba(names["x"][5:6])
    np.testing.assert_allclose(jax.nn.softmax(taught), expected, atol=1e-4)
