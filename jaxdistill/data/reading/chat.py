"""Chats as a tokenizer's template writes them, and which of it the assistant wrote."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdistill.data.reading.messages import ASSISTANT, REASONING, Message, read_messages
from jaxdistill.errors import DataError
from jaxdistill.types import Json

Span = tuple[int, int]
Messages = Sequence[Message]

RESERVED = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversation"}
    | {"max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict"}
    | {"return_tensors", "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "tools"}
    | {"truncation"}
)
"""What a chat cannot set as a variable of its template."""
FAULTS = ("tools", "messages", "reasoning", "empty", "split", "unprompted")
"""What is counted of chats: see `Written`."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_LINES = re.compile(r"\n|</?think>")
_MARKS = ("Qzxj", "Wvkp")  # begin otherwise, and nothing trims or escapes them


@dataclasses.dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
      messages: mappings with the keys `role` and `content` (text) and whatever else templates read,
        such as `tool_calls`, `name` and `reasoning_content`; none is None.
      learned: which of them are learned from, the assistant's only.
      tools: JSON schemas of the functions that the assistant may call.
      variables: further ones of the template, such as `enable_thinking`.
      where: what to call it in messages.
    """

    messages: Messages
    learned: tuple[bool, ...]
    tools: Sequence[Json] | None = None
    variables: Mapping[str, object] = dataclasses.field(default_factory=dict)
    where: str = dataclasses.field(default="a chat", compare=False, repr=False)

    def content(self) -> Json:
        """Return all that its tokens depend on, for JSON."""
        fields = {name: getattr(self, name) for name in ("messages", "learned", "tools")}
        return {**fields, "variables": self.variables}


def chat_of(messages: Any, **fields: Any) -> Chat:
    """Return a chat of messages in any form that `read_messages` knows; `fields` as in `Chat`."""
    read, learned = read_messages(messages, fields.get("where", "a chat"))
    return Chat(read, tuple(learned), **fields)


@dataclasses.dataclass(frozen=True)
class Written:
    """A chat as its template writes it.

    Attributes:
      texts: each with the places that are learned. One text, but where the template writes earlier
        turns otherwise once others follow: then one for each answer, as it is when it is given.
      faults: names of what is odd: `tools`, the schemas are not written; `messages`, nothing of a
        message is; `reasoning`, that of a learned answer is not; `empty`, a learned answer says
        nothing; `split`, there are several texts; `unprompted`, the template does not put before an
        answer what it puts there to make the model answer.
    """

    texts: list[tuple[str, list[Span]]]
    faults: frozenset[str] = frozenset()


def check_template(tokenizer: Any, folder: Any) -> None:
    """Raise DataError where a tokenizer cannot write chats."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{folder}: the tokenizer has no chat template, which chats need; take a tokenizer "
            "with one, or write each chat as text and name its column: data.text, or "
            "data.prompt and data.completion"
        )


def render(tokenizer: Any, chat: Chat) -> Written:
    """Write a chat with the template, and return from where to where the assistant writes.

    Where the template marks that itself (`{% generation %}`), its marks hold. Otherwise what it
    puts before a turn to make the model answer is not the assistant's; what it puts after, such as
    the end of the turn, is.

    Raises:
      DataError: the template refuses the chat, or does not write the tool calls of an answer.
    """
    messages, whole = _form(tokenizer, chat)
    turns = [index for index, learned in enumerate(chat.learned) if learned]
    faults = set(_lost(tokenizer, chat, messages, whole, turns))
    if _marked(tokenizer, chat):
        spans = _marks(tokenizer, chat, messages)
        for index, message in enumerate(messages):
            if message["role"] == ASSISTANT and not chat.learned[index]:
                start, through, _ = _turn(tokenizer, chat, messages, index, whole)
                if not whole.startswith(through):
                    raise DataError(
                        f"{chat.where}: the chat template writes the assistant's turn {index} "
                        "otherwise when others follow it, so it cannot be left unlearned; cut the "
                        "chat behind that turn, or take another template"
                    )
                spans = [(a, b) for a, b in spans if not start <= a < len(through)]
        return Written([(whole, spans)], frozenset(faults))
    found = [_turn(tokenizer, chat, messages, index, whole) for index in turns]
    if not all(prompted for _, _, prompted in found):
        faults.add("unprompted")
    if all(whole.startswith(through) for _, through, _ in found):
        spans = [(start, len(through)) for start, through, _ in found]
        return Written([(whole, spans)], frozenset(faults))
    texts = [(through, [(start, len(through))]) for start, through, _ in found]
    return Written(texts, frozenset(faults | {"split"}))


def prompt_before(tokenizer: Any, chat: Chat, turn: int) -> str:
    """Write what stands before a turn, up to where the assistant begins.

    Raises:
      DataError: the template refuses it.
    """
    asked = dataclasses.replace(chat, messages=chat.messages[:turn], learned=chat.learned[:turn])
    messages, _ = _form(tokenizer, asked)
    return _write(tokenizer, chat, messages, prompt=True)


def _turn(
    tokenizer: Any, chat: Chat, messages: Messages, index: int, whole: str
) -> tuple[int, str, bool]:
    """Return where a turn begins, the text up to its end, and whether it was asked for as usual."""
    last = index + 1 == len(messages)
    through = whole if last else _write(tokenizer, chat, messages[: index + 1])
    if index:
        try:
            before = _write(tokenizer, chat, messages[:index], prompt=True)
        except DataError:  # Nothing is asked there, as between two turns of the assistant.
            before = None
        if before is not None and through.startswith(before):
            return len(before), through, True
    # What other words in its place leave alone is the template's.
    others = [
        _write(tokenizer, chat, [*messages[:index], {"role": ASSISTANT, "content": mark}])
        for mark in _MARKS
    ]
    columns = enumerate(zip(through, *others, strict=False))
    start = next((place for place, letters in columns if len({*letters}) > 1), len(through))
    return start, through, index == 0


def _form(tokenizer: Any, chat: Chat) -> tuple[Messages, str]:
    """Return the messages in the form that the template writes rightly, and what it writes.

    As they are, where it can. Templates differ in whether a content may be absent beside tool
    calls, and in whether they write their arguments as JSON themselves.
    """
    failure: DataError | None = None
    fair: tuple[Messages, str] | None = None
    for messages in _forms(chat.messages):
        try:
            text = _write(tokenizer, chat, messages)
        except DataError as error:
            failure = error  # The last form is the fullest, whose refusal says most.
            continue
        if not _garbled(messages, text):
            return messages, text
        fair = fair or (messages, text)
    if fair is not None:
        return fair
    assert failure is not None  # every form was refused
    raise failure


def _forms(messages: Messages) -> Iterator[Messages]:
    calls = any("tool_calls" in message for message in messages)
    silent = any("content" not in message for message in messages)
    kinds = [None, dict, str] if calls else [None]
    for kind, filled in itertools.product(kinds, [False, True] if silent else [False]):
        yield [_formed(message, kind, filled) for message in messages]


def _formed(message: Message, kind: type | None, filled: bool) -> Json:
    read = dict(message)
    if filled:
        read.setdefault("content", "")
    if kind is not None and "tool_calls" in read:
        read["tool_calls"] = [
            {**call, "function": _with_arguments(call["function"], kind)}
            for call in read["tool_calls"]
        ]
    return read


def _with_arguments(function: Json, kind: type) -> Json:
    given = function.get("arguments")
    if kind is dict and isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return function
    elif kind is str and isinstance(given, Mapping):
        given = json.dumps(given, ensure_ascii=False)
    return {**function, "arguments": given} if "arguments" in function else function


def _garbled(messages: Messages, text: str) -> bool:
    """Return whether arguments of a call are written as JSON twice, or as Python writes them."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            given = call["function"].get("arguments")
            right = json.dumps(given, ensure_ascii=False)
            if isinstance(given, str) and given and right in text:
                return True
            if isinstance(given, Mapping) and str(given) != right and str(given) in text:
                return True
    return False


def _lost(
    tokenizer: Any, chat: Chat, messages: Messages, whole: str, turns: Sequence[int]
) -> Iterator[str]:
    """Yield what the template leaves out or what an answer lacks; refuse calls that are lost."""
    if chat.tools and whole == _write(tokenizer, dataclasses.replace(chat, tools=None), messages):
        yield "tools"
    _check_calls(tokenizer, chat, messages, whole, turns)
    for index, message in enumerate(messages):
        content = message.get("content", "")
        lines = [line.strip() for line in _LINES.split(content) if line.strip()]
        if lines and not any(line in whole or _quoted(line) in whole for line in lines):
            yield "messages"
        if index not in turns:
            continue
        if not lines and not message.get("tool_calls"):
            yield "empty"
        thoughts = [message[name] for name in REASONING if isinstance(message.get(name), str)]
        opened, closed, _ = content.partition("</think>")
        thoughts = [*thoughts[:1], *([opened.rpartition("<think>")[2]] if closed else [])]
        if any(thought.strip() for thought in thoughts):
            last = index + 1 == len(messages)
            own = whole if last else _write(tokenizer, chat, messages[: index + 1])
            if not all(thought.strip() in own for thought in thoughts):
                yield "reasoning"


def _quoted(line: str) -> str:
    return json.dumps(line, ensure_ascii=False)[1:-1]


def _check_calls(
    tokenizer: Any, chat: Chat, messages: Messages, whole: str, turns: Sequence[int]
) -> None:
    """Raise DataError where the template writes nothing of the calls in learned answers."""
    for index in turns:
        calls = messages[index].get("tool_calls")
        if not calls:
            continue
        named = [
            {**call, "function": {**call["function"], "name": call["function"]["name"] + _MARKS[0]}}
            for call in calls
        ]
        other = [*messages]
        other[index] = {**messages[index], "tool_calls": named}
        if _write(tokenizer, chat, other) == whole:
            raise DataError(
                f"{chat.where}: the chat template writes no tool calls, so the answer "
                f"{str(calls[0]['function'])[:60]} would be learned as if nothing was said; take a "
                "tokenizer whose template writes them, or put the call into the content"
            )


def _marked(tokenizer: Any, chat: Chat) -> bool:
    template = tokenizer.get_chat_template(tools=_tools(chat))
    return bool(_GENERATION.search(template))


def _marks(tokenizer: Any, chat: Chat, messages: Messages) -> list[Span]:
    """Return the places of the tokens that the template marks as the assistant's."""
    encoded = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=_tools(chat),
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
        **chat.variables,
    )
    spans: list[Span] = []
    for (start, stop), marked in zip(
        encoded["offset_mapping"], encoded["assistant_masks"], strict=True
    ):
        if marked and spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        elif marked:
            spans.append((start, stop))
    return spans


def _tools(chat: Chat) -> list[Json] | None:
    return [dict(tool) for tool in chat.tools] if chat.tools else None


def _write(tokenizer: Any, chat: Chat, messages: Messages, *, prompt: bool = False) -> str:
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=_tools(chat),
            tokenize=False,
            add_generation_prompt=prompt,
            **chat.variables,
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        roles = [message["role"] for message in messages]
        part = len(messages) < len(chat.messages)
        raise DataError(
            f"data.messages: {chat.where}: the chat template refuses "
            f"{'the beginning of a chat' if part else 'a chat'} of the roles {roles}: "
            f"{reason}; change such chats or leave them out, or take a tokenizer with another "
            "template"
        ) from None
