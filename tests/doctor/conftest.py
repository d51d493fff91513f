"""A set-up in which the doctor finds nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.setups import encoder, text_dataset, text_split

from jaxdistill.config.load import check
from jaxdistill.doctor.findings import Examined
from jaxdistill.models.registry import Model


@pytest.fixture(scope="session")
def models() -> tuple[Model, Model]:
    """A teacher of two layers and a student of one; shared, since nothing here changes a model."""
    return encoder(2), encoder(1)


@pytest.fixture
def healthy(models) -> Callable[..., Examined]:
    """Make a set-up without faults, with some fields of it or of its configuration replaced."""
    teacher, student = (dataclasses.replace(model, initialized=()) for model in models)
    labels = text_split(400, 1).labels
    random = np.random.default_rng(3)
    said = np.where(random.uniform(size=400) < 0.9, labels, 1 - labels)

    def make(config: dict[str, Any] | None = None, **fields: Any) -> Examined:
        values = {
            "data": {"train": "train.tsv", "max_length": 16},
            "teacher": {"model": {"family": "bert"}},
            "student": {"model": {"family": "bert"}},
        }
        usual = {
            "config": check({**values, **(config or {})}),
            "dataset": text_dataset(),
            "teacher": teacher,
            "student": student,
            "teacher_logits": np.eye(2)[said],
            "teacher_labels": labels,
        }
        return Examined(**{**usual, **fields})

    return make
