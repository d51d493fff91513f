"""What a check found, and a data set with one fault."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxdistill.data.dataset import Dataset
from jaxdistill.doctor.findings import Finding


def only(findings: Iterable[Finding], level: str) -> str:
    """Return the message of the only finding, which has this level."""
    (finding,) = list(findings)
    assert finding.level == level, finding
    return finding.message


def with_part(dataset: Dataset, part: str, **fields: Any) -> Dataset:
    """Replace fields of one of its splits."""
    return dataclasses.replace(
        dataset, **{part: dataclasses.replace(getattr(dataset, part), **fields)}
    )
