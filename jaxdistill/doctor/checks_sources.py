"""Checks of where the data came from: what of it is read, and what is not."""

from __future__ import annotations

from jaxdistill.doctor.findings import Check, Finding, Setup


def sources(setup: Setup) -> Check:
    """Tell what was noticed while reading: unread columns and files, a doubtful header."""
    for remark in setup.dataset.remarks:
        yield Finding("warning", remark.name, remark.message)
    if not setup.dataset.remarks:
        yield Finding("ok", "sources", "no file and no column of text is left unread")
