"""Chats as a tokenizer's template writes them, and which of it the assistant said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.errors import DataError

Chat = Sequence[Mapping[str, str]]
Span = tuple[int, int]


def check_template(tokenizer: Any, folder: Any) -> None:
    """Raise DataError where a tokenizer cannot write chats."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{folder}: the tokenizer has no chat template, which chats need; take a tokenizer "
            "with one, or write each chat as text and name its column: data.text, or "
            "data.prompt and data.completion"
        )


def render(tokenizer: Any, chat: Chat) -> tuple[str, list[Span]]:
    """Write a chat with the template, and say from where to where the assistant speaks.

    What the template puts before a turn to make the model answer is not the assistant's; what it
    puts after, such as the end of the turn, is.

    Raises:
      DataError: the template writes earlier turns otherwise once later ones follow.
    """
    whole = _write(tokenizer, chat)
    spans = []
    for index, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        through = _write(tokenizer, chat[: index + 1])
        # A template may refuse to write nothing at all.
        before = _write(tokenizer, chat[:index] or chat[:1], prompt=True)
        if index == 0:
            before = before.removeprefix(through)
        if not (through.startswith(before) and whole.startswith(through)):
            raise DataError(
                "data.messages: the chat template writes the assistant's turn "
                f"{index} otherwise when others follow it, so its place cannot be told; "
                "keep one assistant turn per chat, or take another template"
            )
        spans.append((len(before), len(through)))
    return whole, spans


def _write(tokenizer: Any, chat: Chat, *, prompt: bool = False) -> str:
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in chat], tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        roles = [message["role"] for message in chat]
        raise DataError(
            f"data.messages: the chat template refuses a chat of the roles {roles}: {reason}"
        ) from None
