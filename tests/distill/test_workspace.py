"""What a stage has left is read back, or named with what to do about it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from jaxdistill.config.load import load_config
from jaxdistill.distill.workspace import run_stage
from jaxdistill.errors import CheckpointError

SETTINGS = {"task": "classification"}


def stage(workdir, *, force=False):
    """Run a stage that finds 1, in place of all that a run knows."""
    workspace: Any = SimpleNamespace(
        workdir=workdir,
        dataset=SimpleNamespace(fingerprint="f"),
        config=load_config("digits"),
        force=force,
        changes=lambda before, wanted: [],
    )
    return run_stage(workspace, "baseline", SETTINGS, lambda folder: {"found": 1})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\0"])
@pytest.mark.parametrize("name", ["settings.json", "result.json"])
def test_damage_is_named_and_repaired(tmp_path, name, content):
    assert stage(tmp_path)["found"] == 1
    file = tmp_path / "baseline" / name
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        stage(tmp_path)
    assert str(caught.value).startswith(f"{file}: got ")
    if name == "result.json":  # as it advises
        assert "; delete this file" in str(caught.value)
        file.unlink()
        assert stage(tmp_path)["found"] == 1
        file.write_bytes(content)
    else:
        assert "; redo the stage with --force" in str(caught.value)
    assert stage(tmp_path, force=True)["found"] == 1
    assert json.loads(file.read_text())
    assert stage(tmp_path)["found"] == 1
