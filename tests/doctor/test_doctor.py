"""The doctor is silent on a healthy set-up, stops at a fatal fault, shows the worst first."""

import io

import numpy as np
import pytest

from jaxdistill.doctor import doctor
from jaxdistill.doctor.findings import Finding
from jaxdistill.errors import ConfigError


def test_a_healthy_setup_is_ok(healthy):
    setup = healthy()
    findings = doctor.examine(
        setup.config,
        setup.dataset,
        setup.teacher,
        setup.student,
        teacher_logits=setup.teacher_logits,
        teacher_labels=setup.teacher_labels,
    )
    assert {finding.level for finding in findings} == {"ok"}, findings
    assert len(findings) >= 9
    doctor.stop_if_fatal(findings)


def test_a_student_that_does_not_exist_yet_is_left_out(healthy):
    setup = healthy(student=None, teacher_logits=None, teacher_labels=None)
    checks = doctor.checks_of(setup.config, setup.dataset.modality)
    names = {finding.name for check in checks for finding in check(setup)}
    assert not names & {"size", "memory", "teacher skill"}
    assert {"vocabulary", "label range", "devices"} <= names


def test_fatal_findings_stop():
    with pytest.raises(ConfigError, match="length: too long; vocabulary: too small"):
        doctor.stop_if_fatal(
            [
                Finding("fatal", "length", "too long"),
                Finding("warning", "size", "hm"),
                Finding("fatal", "vocabulary", "too small"),
            ]
        )


def test_a_judgement_may_be_accepted_and_says_so(healthy):
    def examine(**config):
        setup = healthy(config)
        chance = np.zeros((400, 2))
        return doctor.examine(
            setup.config, setup.dataset, None, None, teacher_logits=chance,
            teacher_labels=setup.teacher_labels,
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"or go on all the same with accept=\[teacher_skill\]"):
        doctor.stop_if_fatal(examine())
    findings = examine(accept=["teacher_skill"])
    doctor.stop_if_fatal(findings)
    (told,) = [finding for finding in findings if finding.name == "teacher skill"]
    assert told.level == "warning"
    assert told.message.startswith("accepted: the teacher's accuracy is 50.0 %")
    with pytest.raises(ConfigError, match="nothing to teach"):
        doctor.stop_if_fatal(examine(accept=["tokenizer"]))
    with pytest.raises(ConfigError, match=r"accept\.0"):
        examine(accept=["label range"])


def test_the_table_shows_the_worst_first():
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    findings = [
        Finding("ok", "size", "fine"),
        Finding("fatal", "length", "bad [B, T]"),
        Finding("warning", "spelling", "set data.labels=[neg, pos]"),
    ]
    console.print(doctor.findings_table(findings))
    text = console.export_text()
    assert text.index("fatal") < text.index("fine")
    assert "bad [B, T]" in text
    assert "set data.labels=[neg, pos]" in text
