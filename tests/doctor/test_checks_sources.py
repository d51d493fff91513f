"""What was noticed while reading is told before step 0."""

import dataclasses

from support.findings import only
from support.setups import text_dataset

from jaxdistill.data.reading.table import Remark
from jaxdistill.doctor import checks_sources, doctor


def test_remarks_become_warnings(healthy):
    remark = Remark("unread columns", "a.csv: the texts in title are not read, only text")
    dataset = dataclasses.replace(text_dataset(), remarks=(remark,))
    assert only(checks_sources.sources(healthy(dataset=dataset)), "warning") == remark.message
    assert only(checks_sources.sources(healthy()), "ok")
    assert doctor.CHECKS.count(checks_sources.sources) == 1
    assert doctor.LANGUAGE_CHECKS.count(checks_sources.sources) == 1
