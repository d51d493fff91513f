"""When two spellings are one name."""

from __future__ import annotations

import re
import unicodedata


def fold(name: str) -> str:
    """Return what spellings of a name share, whatever their case, width, blanks and dashes."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])", " ", plain)
