"""Which columns a language model learns from: texts, chats, or prompts and their completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.column_names import (
    ANSWERED,
    ANSWERS,
    CHATS,
    CONTEXTS,
    SYSTEMS,
    TEXTS,
    WEAKER_TEXTS,
    by_usual_name,
)
from jaxdistill.data.reading.table import Cells, Table
from jaxdistill.errors import DataError, did_you_mean

Kind = Literal["texts", "chats", "pairs"]
KINDS: Mapping[Kind, type] = {"texts": str, "chats": list, "pairs": tuple}
"""What a document of each kind is."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What is learned of each row.

    Attributes:
      values: texts, lists of messages, or pairs of prompt and completion; None where a row has
        nothing.
      columns: where it came from.
    """

    kind: Kind
    values: Cells
    columns: tuple[str, ...]


def find_content(table: Table, config: DataConfig) -> Content:
    """Choose the columns: those named in the configuration, else the only ones with usual names.

    A column `prompt` and a column `completion` are joined as they are, and only the latter is
    learned; where both are lists of messages they are one chat. Columns of a question and its
    answer by other names are the turns of the user and of the assistant.

    Raises:
      DataError: a named column is not there, or none or several could be meant.
    """
    named = _named(table, config)
    if named is not None:
        return named
    usual = by_usual_name(name for name in table.columns if _has_content(table, name))
    for name in CHATS:
        if name in usual:
            return _single(table, usual[name], "chats")
    answered = [pair for pair in ANSWERED if all(name in usual for name in pair)]
    if any("instruction" in pair for pair in answered):
        answered = [pair for pair in answered if "input" not in pair]
    answered_names = {name for pair in answered for name in pair}
    texts = [name for name in TEXTS if name in usual and name not in answered_names]
    if not answered and not texts:
        texts = [name for name in WEAKER_TEXTS if name in usual]
    if len(answered) + len(texts) != 1:
        raise _none_or_several(table, [*answered, *texts], usual)
    if answered:
        return _answered(table, usual, answered[0])
    answers = [name for name in ANSWERS if name in usual and name != texts[0]]
    if answers:
        raise _none_or_several(table, [texts[0], (texts[0], answers[0])], usual)
    return _single(table, usual[texts[0]], "texts")


def _named(table: Table, config: DataConfig) -> Content | None:
    for key in ("text_pair", "label", "image"):
        if getattr(config, key) is not None:
            raise DataError(
                f"data.{key}: has no effect for a language model, expected data.text, "
                "data.messages, or data.prompt with data.completion; drop it, or set task"
            )
    keys = [k for k in ("messages", "text", "prompt", "completion") if getattr(config, k)]
    for key in keys:
        name, found = getattr(config, key), list(table.columns)
        if name not in table.columns:
            raise DataError(
                f"data.{key}: {table.source} has no column {name!r}, expected one of {found}."
                f"{did_you_mean(name, found)}"
            )
    if len(keys) > 1 and keys != ["prompt", "completion"]:
        raise DataError(
            f"data.{keys[0]}: got {' and '.join(f'data.{key}' for key in keys)}, expected one of "
            "data.text, data.messages, and data.prompt with data.completion"
        )
    if config.messages is not None:
        return _single(table, config.messages, "chats")
    if config.text is not None:
        return _single(table, config.text, "texts")
    if config.prompt is not None and config.completion is not None:
        return _joined(table, config.prompt, config.completion)
    return None


def _single(table: Table, name: str, kind: Kind) -> Content:
    return Content(kind, table.columns[name], (name,))


def _answered(table: Table, usual: Mapping[str, str], pair: tuple[str, str]) -> Content:
    asked, answer = (usual[name] for name in pair)
    if pair == ("prompt", "completion"):
        return _joined(table, asked, answer)
    system = next((usual[name] for name in SYSTEMS if name in usual), None)
    context = next((usual[name] for name in CONTEXTS if name in usual and name not in pair), None)
    columns = tuple(name for name in (system, asked, context, answer) if name is not None)
    values: list[Any] = []
    for row in range(len(table)):
        cells = {name: _text(table, row, name) for name in columns}
        if not cells[asked] or not cells[answer]:
            values.append(None)
            continue
        question = "\n\n".join(filter(None, (cells[asked], cells.get(context or "", ""))))
        chat = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": cells[answer]},
        ]
        if system is not None and cells[system]:
            chat.insert(0, {"role": "system", "content": cells[system]})
        values.append(chat)
    return Content("chats", values, columns)


def _joined(table: Table, prompt: str, completion: str) -> Content:
    """Pairs of texts, or chats of which only the completion's turns are learned."""
    columns = (prompt, completion)
    both = list(zip(table.columns[prompt], table.columns[completion], strict=True))
    if any(isinstance(value, list) for pair in both for value in pair):
        return Content("chats", [_one_chat(*pair) for pair in both], columns)
    values = []
    for row in range(len(table)):
        asked, answer = _text(table, row, prompt), _text(table, row, completion)
        values.append((asked, answer) if answer.strip() else None)
    return Content("pairs", values, columns)


def _one_chat(prompt: Any, completion: Any) -> list[Any] | None:
    if not completion:
        return None
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    # Turns of weight 0 are read and not learned.
    asked = [
        {**turn, "weight": 0}
        if isinstance(turn, Mapping) and turn.get("role") == "assistant"
        else turn
        for turn in prompt or []
    ]
    return [*asked, *completion]


def _text(table: Table, row: int, name: str) -> str:
    value = table.columns[name][row]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{table.at(row)}: got {name}={str(value)[:40]!r}, expected text")
    return value


def _has_content(table: Table, name: str) -> bool:
    return any(value is not None for value in table.columns[name])


def _none_or_several(
    table: Table, found: Sequence[str | tuple[str, ...]], usual: Mapping[str, str]
) -> DataError:
    columns = list(table.columns)
    if not found:
        doubt = f"; {table.header_doubt}" if table.header_doubt else ""
        return DataError(
            f"{table.source}: got the columns {columns}, expected `text` or `messages`, or "
            "`prompt` and `completion`; set data.text, data.messages, or data.prompt and "
            f"data.completion{doubt}"
        )
    options = [[usual[n] for n in ([one] if isinstance(one, str) else one)] for one in found]
    ways = [
        f"data.text={names[0]}"
        if len(names) == 1
        else f"data.prompt={names[0]} data.completion={names[1]}"
        for names in options
    ]
    return DataError(
        f"data.text: {table.source} has the columns {columns}, of which several could be learned: "
        f"set {' or '.join(ways)}"
    )
