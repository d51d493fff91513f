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
    """Replace fields of one of its splits, or of that split's inputs."""
    split = getattr(dataset, part)
    own = {name: value for name, value in fields.items() if name in ("labels", "fingerprint")}
    of_inputs = {name: value for name, value in fields.items() if name not in own}
    inputs = dataclasses.replace(split.inputs, **of_inputs)
    return dataclasses.replace(dataset, **{part: dataclasses.replace(split, inputs=inputs, **own)})
