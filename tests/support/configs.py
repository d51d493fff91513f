"""Small configs as mappings and files, and what is wrong with one."""

from pathlib import Path

import pytest
import yaml

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError


def values_of(**sections) -> dict:
    """Return a config of digits with some sections changed."""
    usual = {
        "data": {"source": "digits"},
        "teacher": {"model": {"family": "cnn"}},
        "student": {"model": {"family": "mlp"}},
    }
    return {**usual, **sections}


def file_of(folder: Path, values: dict | str) -> str:
    """Write it and return where."""
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def fault_of(values: dict) -> str:
    """Return the one line that refuses it."""
    with pytest.raises(ConfigError) as caught:
        check(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)
