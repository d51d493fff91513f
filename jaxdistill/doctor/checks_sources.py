"""Checks of where the data came from: what of it is read, and what is not."""

from __future__ import annotations

from jaxdistill.doctor.findings import Check, Examined, Finding


def sources(examined: Examined) -> Check:
    """Tell what was noticed while reading: unread columns and files, a doubtful header."""
    for remark in examined.dataset.remarks:
        yield Finding("warning", remark.name, remark.message)
    if not examined.dataset.remarks:
        yield Finding("ok", "sources", "no file and no column of text is left unread")
