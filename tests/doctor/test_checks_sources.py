"""What was noticed while reading is told before step 0."""

import dataclasses

import pytest
from support.findings import only
from support.setups import text_dataset

from jaxdistill.data.reading.table import Remark
from jaxdistill.doctor import checks_sources, doctor


def test_remarks_become_warnings(healthy):
    remark = Remark("unread columns", "a.csv: the texts in title are not read, only text")
    dataset = dataclasses.replace(text_dataset(), remarks=(remark,))
    assert only(checks_sources.sources(healthy(dataset=dataset)), "warning") == remark.message
    assert only(checks_sources.sources(healthy()), "ok")


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "language_model"])
def test_every_task_is_checked_once(healthy, task):
    setup = healthy({"task": task, "metric": None})
    checks = doctor.checks_of(setup.config, setup.dataset.modality)
    assert checks_sources.sources in checks
    assert len(set(checks)) == len(checks)
