"""Messages of a chat as data sets hold them, brought to the one form that chat templates read."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxdistill.errors import DataError
from jaxdistill.types import Json

Message = Json

ASSISTANT = "assistant"
_ROLES = ("user", ASSISTANT, "system", "developer", "tool", "function", "ipython")
# ShareGPT's names, and those of other collections, for the roles that templates know.
_ALIASES = {
    "human": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "model": ASSISTANT,
    "bot": ASSISTANT,
    "chatbot": ASSISTANT,
    "ai": ASSISTANT,
    "function_call": ASSISTANT,
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_THOUGHTS = "reasoning_content"
REASONING = (_THOUGHTS, "thinking", "reasoning")
_FLAGS = ("train", "training", "trainable", "loss")


def read_messages(
    value: object, where: str, *, typed: bool = False
) -> tuple[list[Message], list[bool]]:
    """Return the messages of a chat, and which of them are learned from.

    Roles and texts are found as `role`/`content` and as ShareGPT's `from`/`value`; a content may be
    text, null beside tool calls, or a list of parts of text. The assistant's turns are learned but
    for those with `weight: 0` (OpenAI) or `train: false` (axolotl and others).

    Args:
      value: a list of messages, JSON of one, or a record of columns (`{"role": […], …}`).
      where: what to call the chat in messages.
      typed: whether records come from typed columns, where absent keys are None.

    Raises:
      DataError: it is none of these, or a message holds what is no text.
    """
    found = _listed(value, where)
    messages, learned = [], []
    for message in found:
        if not isinstance(message, Mapping):
            _refuse(where, message)
        read, counts = _message(message, where, typed)
        messages.append(read)
        learned.append(counts)
    if any("function_call" in message for message in messages):
        messages = [_renewed(message) for message in messages]
    return messages, learned


def are_messages(value: object) -> bool:
    """Return whether a value looks like a list of messages, or JSON of one."""
    try:
        found = _listed(value, "")
    except DataError:
        return False
    keys = ({"role", "content"}, {"from", "value"}, {"role", "tool_calls"})
    return bool(found) and all(
        isinstance(message, Mapping) and any(pair <= set(message) for pair in keys)
        for message in found
    )


def parsed(value: object) -> Any:
    """Return what JSON (or a Python literal, as pandas writes lists) in a text stands for.

    Raises:
      ValueError: the text is neither.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("neither JSON nor a literal") from None


def without_nulls(value: object) -> Any:
    """Return records without the keys whose value is None, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def read_tools(
    value: Any, where: str, *, name: str = "tools", typed: bool = False
) -> list[Json] | None:
    """Return the JSON schemas of a chat's tools, or None where there are none.

    Args:
      value: a list of schemas, or JSON of one, or of each.
      where: what to call the chat in messages.
      name: name of the column; `functions` holds bare functions.
      typed: whether records come from typed columns, where absent keys are None.

    Raises:
      DataError: they are neither schemas nor JSON of them.
    """
    given = value
    if isinstance(value, str):
        value, typed = _json(value, where, name) if value.strip() else None, False
    if not value:
        return None
    tools = [value] if isinstance(value, Mapping) else list(value)
    if any(isinstance(tool, str) for tool in tools):
        tools = [_json(tool, where, name) for tool in tools]
        typed = False
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(
            f"{where}: got {name}={str(given)[:60]!r}, expected a list of JSON schemas, or JSON of "
            "one"
        )
    whole = [dict(without_nulls(tool) if typed else tool) for tool in tools]
    if name == "functions":  # OpenAI's older form has no type around them
        whole = [tool if "function" in tool else _function(tool) for tool in whole]
    return whole


def _json(value: object, where: str, name: str) -> Any:
    try:
        return parsed(value)
    except ValueError:
        raise DataError(
            f"{where}: got {name}={str(value)[:60]!r}, expected JSON; write it with json.dumps"
        ) from None


def _listed(value: object, where: str) -> list[Any]:
    """Return a list of messages out of the ways in which a cell holds one."""
    found = value
    if isinstance(found, str):
        try:
            found = parsed(found)
        except ValueError:
            found = None
    if isinstance(found, Mapping) and isinstance(found.get("role", found.get("from")), str):
        found = [found]
    elif isinstance(found, Mapping):
        columns = [column for column in found.values() if isinstance(column, list)]
        if columns and len(columns) == len(found) and len({len(c) for c in columns}) == 1:
            found = [dict(zip(found, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(found, list):
        raise DataError(
            f"{where}: got {str(value)[:40]!r}, expected a list of messages, or JSON of one as "
            "json.dumps writes it"
        )
    return found


def _message(message: Mapping[str, object], where: str, typed: bool) -> tuple[Message, bool]:
    given = {key: value for key, value in message.items() if value is not None}
    role = given.pop("role", None) or given.pop("from", None)
    given.pop("from", None)
    name = "content" if "content" in message else "value"
    content = given.pop(name, None)
    if not isinstance(role, str):
        _refuse(where, message)
    called = role.strip().lower() == "function_call"
    lower = role.strip().lower()
    role = _ALIASES.get(lower, lower if lower in _ROLES else role)
    learned = _weight(given, where) and role == ASSISTANT
    if isinstance(content, list):
        content, thoughts = _joined(content, where)
        if thoughts:
            given.setdefault(_THOUGHTS, thoughts)
    calls = _calls(given.pop("tool_calls", None), where, typed)
    if called and isinstance(content, str):
        calls, content = _calls(content, where, typed), None
    if calls:
        given["tool_calls"] = calls
    says_nothing = not calls and "function_call" not in given and _THOUGHTS not in given
    if not (isinstance(content, str) or (content is None and not says_nothing)):
        _refuse(where, message)
    read = {"role": role} | ({} if content is None else {"content": content}) | given
    return read, learned


def _weight(given: Json, where: str) -> bool:
    """Take out what says whether a message is learned from."""
    learned = True
    weight = given.pop("weight", 1)
    if weight not in (0, 1):
        raise DataError(
            f"{where}: got a message of weight {weight!r}, expected 0 (not learned) or 1"
        )
    for name in _FLAGS:
        if isinstance(given.get(name), bool):
            learned = given.pop(name) and learned
    return learned and bool(weight)


def _joined(parts: Sequence[object], where: str) -> tuple[str, str]:
    """Return the text of parts, one behind the other as templates write them, and the thoughts."""
    texts, thoughts = [], []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part if isinstance(part, str) else None
        if isinstance(part, Mapping):
            text = part.get(_TEXT_PARTS.get(kind, kind))
        if kind == "thinking" and isinstance(text, str):
            thoughts.append(text)
        elif kind in _TEXT_PARTS and isinstance(text, str):
            texts.append(text)
        else:
            raise DataError(
                f"{where}: got a part of the type {kind!r} in a message, expected parts of text "
                "only: a language model here reads neither images nor sounds nor files; leave such "
                "chats out"
            )
    return "".join(texts), "".join(thoughts)


def _calls(value: Any, where: str, typed: bool) -> list[Json]:
    """Return tool calls as `{"type": "function", "function": {"name": …, "arguments": …}}`."""
    if isinstance(value, str):
        value, typed = _json(value, where, "tool_calls") if value.strip() else None, False
    if not value:
        return []
    calls = [value] if isinstance(value, Mapping) else value
    whole = []
    for call in calls if isinstance(calls, list) else [calls]:
        bare = isinstance(call, Mapping) and "function" not in call and "name" in call
        call = _function(call) if bare else call
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(
                f"{where}: got the tool call {str(call)[:60]!r}, expected a function with a name "
                "and arguments"
            )
        whole.append(without_nulls(call) if typed else dict(call))
    return whole


def _function(function: Mapping[str, object]) -> Json:
    return {"type": "function", "function": dict(function)}


def _renewed(message: Message) -> Message:
    """Return a message of OpenAI's older form, with one function call, in that of tool calls."""
    read = dict(message)
    if "function_call" in read:
        call = read.pop("function_call")
        read["tool_calls"] = [_function(call)]
    if read["role"] == "function":
        read["role"] = "tool"
    return read


def _refuse(where: str, message: object) -> NoReturn:
    raise DataError(
        f"{where}: got the message {str(message)[:60]!r}, expected a role and a content, both text"
    )
