"""Text that holds a list of labels, as JSON, Python, NumPy or PostgreSQL writes it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

BRACKETED = re.compile(
    r"(?:(?:np\.|numpy\.)?array|frozenset|set)\(.*\)|\[.*\]|\(.*\)|\{.*\}", re.DOTALL
)
_CALL = re.compile(r"(?:(?:np\.|numpy\.)?array|frozenset|set)\((.*)\)", re.DOTALL)
_SCALAR_CALL = re.compile(r"(?:np|numpy)\.\w+\(([^()]*)\)")
_TOKEN = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([^\s,'"]+)|,|\s+""", re.DOTALL)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


def is_bracketed(texts: Sequence[str]) -> bool:
    """Say whether all texts look like lists; a single `[deleted]` among names is a name."""
    return bool(texts) and all(BRACKETED.fullmatch(text) for text in texts)


def read_list(text: str) -> list[Any]:
    """Read a list as JSON, Python, NumPy or PostgreSQL writes it; a mapping gives its true keys.

    Raises:
      ValueError: saying why it is none.
    """
    body = _SCALAR_CALL.sub(r"\1", text.strip())  # np.str_('a'), as NumPy 2 writes its scalars
    call = _CALL.fullmatch(body)
    if call is not None:
        body = re.sub(r",\s*dtype=.*$", "", call[1], flags=re.DOTALL).strip()
        if not body:
            return []
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = _mapping(body)
    if isinstance(found, dict):
        return true_keys(found)
    if isinstance(found, list):
        if any(isinstance(part, list | dict) for part in found):
            raise ValueError("it holds another list")
        return found
    return _parts(body[1:-1].strip())


def true_keys(flags: Mapping[object, object]) -> list[object]:
    """Return the labels that a mapping gives 1 or true.

    Raises:
      ValueError: another value than 0 or 1.
    """
    odd = [value for value in flags.values() if value not in (0, 1)]
    if odd:
        raise ValueError(f"it gives a label the value {odd[0]!r}, not 0 or 1")
    return [name for name, value in flags.items() if value]


def _mapping(text: str) -> Any:
    if not text.startswith("{") or ":" not in text:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _parts(body: str) -> list[Any]:
    """Split what stands between brackets: quoted and separated by commas or blanks, or bare."""
    if not re.search(r"['\"]", body):
        if "," in body:
            return [_scalar(part.strip()) for part in body.rstrip(",").split(",")]
        words = [_scalar(part) for part in body.split()]
        numbers = all(not isinstance(word, str) for word in words)
        return words if numbers else [_scalar(body)]
    parts, at = [], 0
    while at < len(body):
        token = _TOKEN.match(body, at)
        if token is None:
            raise ValueError(f"a quote is not closed at {body[at : at + 20]!r}")
        at = token.end()
        if token[1]:
            parts.append(_quoted(token[1]))
        elif token[2]:
            word = _scalar(token[2])
            if isinstance(word, str):
                raise ValueError(f"{token[2]!r} stands between quoted labels")
            parts.append(word)
    return parts


def _quoted(token: str) -> str:
    try:
        return json.loads(token) if token.startswith('"') else ast.literal_eval(token)
    except (ValueError, SyntaxError):
        return token[1:-1]


def _scalar(word: str) -> Any:
    if word == "...":
        raise ValueError("NumPy shortened it when it was written (...)")
    if re.search(r"[\[\](){}]", word):
        raise ValueError("it holds another list")
    if word.casefold() in _CONSTANTS:
        return _CONSTANTS[word.casefold()]
    if NUMBER.fullmatch(word) and not re.fullmatch(r"[+-]?0\d+", word):
        return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
    return word
