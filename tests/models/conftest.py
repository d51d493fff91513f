"""A model folder to read and to damage."""

import shutil
from pathlib import Path

import pytest
from models import parity

from jaxdistill.models.registry import build_model, save_model


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A tiny BERT classifier with three labels, saved by us once; not to be changed."""
    folder = tmp_path_factory.mktemp("bert") / "model"
    save_model(folder, build_model(parity.spec("bert"), labels=["sad", "so-so", "happy"]))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(saved, tmp_path / "model"))
