"""The doctor says what was odd in the images, and nothing of texts."""

import dataclasses

from jaxdistill.data.reading.table import Remark
from jaxdistill.doctor import doctor


def test_what_was_noticed_is_a_warning(healthy):
    setup = healthy()
    odd = dataclasses.replace(setup.dataset, remarks=(Remark("image files", "1 is not read"),))
    found = doctor.examine(setup.config, odd, setup.teacher, setup.student)
    assert ("warning", "image files", "1 is not read") in [
        (finding.level, finding.name, finding.message) for finding in found
    ]
