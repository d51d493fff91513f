"""Rows of a table to chats: which columns hold messages, tools and variables of the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.chat import RESERVED, Chat
from jaxdistill.data.reading.column_names import CHATS
from jaxdistill.data.reading.messages import (
    ASSISTANT,
    Message,
    are_messages,
    parsed,
    read_messages,
    read_tools,
    without_nulls,
)
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError, did_you_mean
from jaxdistill.types import Json

_PROMPT = "prompt"
_CHOSEN = "chosen"
_ANSWERS = ("completion", _CHOSEN, "response", "answer")
_WORSE = "rejected"
_TOOLS = ("tools", "functions")
_VARIABLES = "chat_template_kwargs"
_SYSTEM = "system"
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")


def chats_of(table: Table, config: DataConfig) -> list[Chat] | None:
    """Return the chats of a table without the empty ones, or None where it holds none.

    They are a column of messages (`data.messages`, or one with a usual name), or a prompt and an
    answer (`completion`, `chosen`, …) that are lists of messages, of which the answer is learned.
    Columns `tools` (or OpenAI's older `functions`), `chat_template_kwargs` and `system` beside them
    are those of the same chat.

    Raises:
      DataError: the column that the configuration names is not there, or a row is no chat.
    """
    columns = _columns(table, config)
    if columns is None:
        return None
    beside = _beside(table)
    chats = [_chat(table, row, columns, beside) for row in range(len(table))]
    return [chat for chat in chats if chat is not None]


def chat_columns(table: Table, config: DataConfig) -> tuple[str, ...] | None:
    """Return the columns that chats are read from, or None where a table holds none.

    Raises:
      DataError: the column that the configuration names is not there.
    """
    columns = _columns(table, config)
    return None if columns is None else (*columns.values(), *_beside(table))


def _beside(table: Table) -> list[str]:
    return [name for name in (*_TOOLS, _VARIABLES, _SYSTEM) if name in table.columns]


def _columns(table: Table, config: DataConfig) -> dict[str, str] | None:
    """Return the column of `messages`, or those of `prompt` and `answer` (and a `worse` answer)."""
    if config.messages is not None:
        found = list(table.columns)
        if config.messages not in found:
            raise DataError(
                f"data.messages: {table.source} has no column {config.messages!r}, expected one "
                f"of {found}.{did_you_mean(config.messages, found)}"
            )
        return {"messages": config.messages}
    if config.text is not None:
        return None
    worse = {"worse": _WORSE} if _WORSE in table.columns else {}
    # A column without a value says nothing of what the rows are.
    present = [name for name in CHATS if name in table.columns]
    named = [name for name in present if _first(table, name) is not None]
    if named and _CHOSEN in table.columns and isinstance(_first(table, _CHOSEN), Mapping):
        return {"prompt": named[0], "answer": _CHOSEN, **worse}  # of ShareGPT's preferences
    if named:
        return {"messages": named[0]}
    prompt = {"prompt": _PROMPT} if _PROMPT in table.columns else {}
    for answer in (name for name in _ANSWERS if name in table.columns):
        if are_messages(_first(table, answer)) or (prompt and are_messages(_first(table, _PROMPT))):
            return {**prompt, "answer": answer, **(worse if answer == _CHOSEN else {})}
    return None


def _first(table: Table, column: str) -> Any:
    return next((value for value in table.columns[column] if value is not None), None)


def _chat(table: Table, row: int, columns: Mapping[str, str], beside: Sequence[str]) -> Chat | None:
    where, typed = table.at(row), table.unit == "row"
    cells = {name: table.columns[name][row] for name in (*columns.values(), *beside)}
    for name in (name for name in _MEDIA if name in table.columns):
        if not _blank(table.columns[name][row]):
            raise DataError(
                f"{where}: got {name}={str(table.columns[name][row])[:40]!r} beside a chat, "
                "expected text only: a language model here reads neither images nor sounds; leave "
                "such chats out"
            )
    if "messages" in columns:
        value = cells[columns["messages"]]
        messages, learned = ([], []) if _blank(value) else read_messages(value, where, typed=typed)
    else:
        given = {name: cells[column] for name, column in columns.items()}
        messages, learned = _pair(given, where, typed)
    if not messages:
        return None
    messages, learned = _with_system(cells.get(_SYSTEM), messages, learned, where)
    tools = None
    for name in (name for name in _TOOLS if name in beside):
        tools = tools or read_tools(cells[name], where, name=name, typed=typed)
    variables = _variables(cells.get(_VARIABLES), where, typed)
    return Chat(messages, tuple(learned), tools, variables, where)


def _pair(given: Json, where: str, typed: bool) -> tuple[list[Message], list[bool]]:
    """Return a prompt, none of which is learned, and the answer behind it."""
    answer, prompt, worse = given["answer"], given.get("prompt"), given.get("worse")
    if _blank(answer):
        return [], []
    if isinstance(answer, str) and not are_messages(answer):
        reply, learned = [{"role": ASSISTANT, "content": answer}], [True]
    else:
        reply, learned = read_messages(answer, where, typed=typed)
    if are_messages(worse):
        # Both begin with the prompt, as in sets of preferences that have none of its own.
        other, _ = read_messages(worse, where, typed=typed)
        for index, (one, two) in enumerate(zip(reply[:-1], other, strict=False)):
            if one != two:
                break
            learned[index] = False
    if _blank(prompt):
        return reply, learned
    if isinstance(prompt, str) and not are_messages(prompt):
        asked = [{"role": "user", "content": prompt}]
        whole = reply[0]["role"] != ASSISTANT
    else:
        asked, _ = read_messages(prompt, where, typed=typed)
        whole = reply[: len(asked)] == asked
    if whole:
        return reply, [here and index >= len(asked) for index, here in enumerate(learned)]
    return [*asked, *reply], [*[False] * len(asked), *learned]


def _with_system(
    system: object, messages: list[Message], learned: list[bool], where: str
) -> tuple[list[Message], list[bool]]:
    if _blank(system):
        return messages, learned
    if not isinstance(system, str):
        raise DataError(f"{where}: got system={str(system)[:40]!r}, expected text")
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": system}, *messages], [False, *learned]
    if first.get("content") != system:
        raise DataError(
            f"{where}: got system={system[:40]!r} and a first message of the system that says "
            "otherwise, expected one of them"
        )
    return messages, learned


def _variables(value: object, where: str, typed: bool) -> Json:
    if _blank(value):
        return {}
    try:
        found = parsed(value)
    except ValueError:
        found = None
    if not isinstance(found, Mapping) or set(found) & RESERVED:
        raise DataError(
            f"{where}: got {_VARIABLES}={str(value)[:60]!r}, expected a mapping of the template's "
            f"own variables, such as {{'enable_thinking': false}}, none of {sorted(RESERVED)}"
        )
    return dict(without_nulls(found) if typed and not isinstance(value, str) else found)


def _blank(value: object) -> bool:
    return value is None or not (
        len(value) if isinstance(value, list | dict) else str(value).strip()
    )
