"""Messages and rows as data sets hold them, all brought to one form or refused by name."""

import json

import pytest
from support.chats import CALL, TOOL, WEATHER, assistant, user

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.documents import read_documents
from jaxdistill.errors import DataError

TALK = [user("hi"), assistant("hello")]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]


def read(tmp_path, *rows, **fields):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = DataConfig(train=str(path), validation=str(path), **fields)
    documents = read_documents(config)["train"]
    assert documents.chats
    return list(documents.items)


def plain(messages):
    return [{key: message[key] for key in ("role", "content")} for message in messages]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"conversations": SHAREGPT},
        {"conversation": json.dumps(SHAREGPT)},
        {"messages": json.dumps(TALK)},
        {"messages": str(TALK)},  # as pandas writes a list into a CSV
        {"messages": {"role": ["user", "assistant"], "content": ["hi", "hello"]}},
        {"messages": [{"role": "User", "content": "hi"}, {"role": "model", "content": "hello"}]},
        {"messages": [user([{"type": "text", "text": "hi"}]), assistant(["hel", "lo"])]},
        {"messages": [user("hi"), assistant([{"type": "output_text", "text": "hello"}])]},
        {"messages": [user("hi"), assistant("hello", tool_calls=[], name=None, weight=None)]},
        {"prompt": [user("hi")], "completion": [assistant("hello")]},
        {"prompt": [user("hi")], "completion": "hello"},
        {"prompt": "hi", "chosen": TALK, "rejected": [user("hi"), assistant("no")]},
        {"chosen": TALK, "rejected": [user("hi"), assistant("no")]},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]},
    ],
    ids=lambda row: "-".join(row),
)
def test_chats_are_one_thing_in_many_forms(tmp_path, row):
    (chat,) = read(tmp_path, row)
    assert chat.messages == TALK
    assert chat.learned == (False, True)
    assert not chat.tools


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [*TALK, *TALK]}, (False, True, False, True)),
        ({"messages": [user("a"), assistant("b", weight=0)]}, (False, False)),
        ({"messages": [user("a"), assistant("b", train=False), assistant("c", train=True)]},
         (False, False, True)),
        ({"messages": [user("a", ), assistant("b", loss=False)]}, (False, False)),
        ({"prompt": [*TALK, user("more")], "completion": [assistant("yes")]},
         (False, False, False, True)),
        ({"prompt": [{"role": "system", "content": "s"}], "completion": TALK},
         (False, False, True)),
        ({"chosen": [*TALK, *TALK], "rejected": [*TALK, user("hi"), assistant("no")]},
         (False, False, False, True)),
    ],
)  # fmt: skip
def test_only_answers_that_count_are_learned(tmp_path, row, expected):
    (chat,) = read(tmp_path, row)
    assert chat.learned == expected
    assert not any({"weight", "train", "loss"} & set(message) for message in chat.messages)


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], TOOL])
def test_tools_variables_and_a_system_belong_to_the_chat(tmp_path, tools):
    row = {"messages": TALK, "tools": tools, "system": "be short"}
    (chat,) = read(tmp_path, row | {"chat_template_kwargs": {"enable_thinking": False}})
    assert chat.tools == [TOOL]
    assert chat.variables == {"enable_thinking": False}
    assert chat.messages == [{"role": "system", "content": "be short"}, *TALK]
    assert chat.learned == (False, False, True)
    (chat,) = read(tmp_path, {"messages": TALK, "functions": [TOOL["function"]], "tools": None})
    assert chat.tools == [TOOL]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [WEATHER]},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": None, "function_call": WEATHER},
        {"from": "function_call", "value": json.dumps(WEATHER)},
    ],
)
def test_calls_are_one_thing_in_many_forms(tmp_path, message):
    results = {"role": "function" if "function_call" in message else "tool", "content": "4 C"}
    (chat,) = read(tmp_path, {"messages": [user("Oslo?"), message, results, assistant("4 C.")]})
    assert chat.messages[1] == {"role": "assistant", "tool_calls": [CALL]}
    assert chat.messages[2] == {"role": "tool", "content": "4 C"}
    assert chat.learned == (False, True, False, True)


def test_parquet_gives_what_json_lines_give(tmp_path):
    import pyarrow
    import pyarrow.parquet

    other = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    calls = [assistant(None, tool_calls=[CALL]), {"role": "tool", "content": "4 C"}]
    rows = [
        {"messages": [user("Oslo?"), *calls, assistant("4 C.")], "tools": [TOOL]},
        {"messages": [user("now?"), assistant(None, tool_calls=[other])], "tools": None},
    ]
    lines = read(tmp_path, *rows)
    # Typed columns give every record every key; what differs between tools must not be read.
    bare = [
        {"type": "function", "function": {"name": name, "parameters": {"properties": {key: kind}}}}
        for name, key, kind in (("a", "city", {"type": "string"}), ("b", "zone", {"enum": ["UTC"]}))
    ]
    rows[0]["tools"] = bare
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chats.parquet")
    path = str(tmp_path / "chats.parquet")
    found = read_documents(DataConfig(train=path, validation=path))["train"].items
    assert [chat.messages for chat in found] == [chat.messages for chat in lines]
    assert found[0].tools == bare
    assert found[1].tools is None


def test_a_csv_of_chats_is_read(tmp_path):
    import pandas

    path = str(tmp_path / "chats.csv")
    frame = {"messages": [json.dumps(TALK)] * 2, "tools": [json.dumps([TOOL]), None], "id": [1, 2]}
    pandas.DataFrame(frame).to_csv(path, index=False)
    found = read_documents(DataConfig(train=path, validation=path))["train"].items
    assert [chat.messages for chat in found] == [TALK, TALK]
    assert [chat.tools for chat in found] == [[TOOL], None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]},
         "line 1: got a part of the type 'image_url'.*reads neither images"),
        ({"messages": [user([{"type": "text", "text": "a"}, {"type": "input_audio"}])]},
         "got a part of the type 'input_audio'"),
        ({"messages": TALK, "images": ["a.png"]}, r"got images=.*a\.png.* beside a chat"),
        ({"messages": [user("a"), assistant("b", weight=0.5)]}, r"got a message of weight 0\.5"),
        ({"messages": [user("a"), assistant(None)]}, "expected a role and a content"),
        ({"messages": [user("a"), assistant({"x": 1})]}, "expected a role and a content"),
        ({"messages": ["hi", "hello"]}, "got the message 'hi', expected a role and a content"),
        ({"messages": "User: hi"}, "got 'User: hi', expected a list of messages, or JSON of one"),
        ({"messages": [user("a"), assistant("", tool_calls=[{"city": "Oslo"}])]},
         "got the tool call .*Oslo.*expected a function with a name"),
        ({"messages": TALK, "tools": ["search"]}, "line 1: got tools='search', expected JSON"),
        ({"messages": TALK, "tools": [3]}, "expected a list of JSON schemas"),
        ({"messages": TALK, "chat_template_kwargs": {"tokenize": True}}, "none of .*'tokenize'"),
        ({"messages": TALK, "chat_template_kwargs": "thinking"}, "expected a mapping"),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "system": "b"},
         "a first message of the system that says otherwise"),
    ],
)  # fmt: skip
def test_what_is_no_chat_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_unread_columns_are_told(tmp_path):
    row = {"messages": TALK, "id": 3, "notes": "This is what an annotator wrote of it."}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row) + "\n")
    found = read_documents(
        DataConfig(train=str(tmp_path / "chats.jsonl"), validation=str(tmp_path / "chats.jsonl"))
    )
    (remark,) = found["train"].remarks
    assert remark.name == "unread columns"
    assert "the texts in notes are not read, only messages" in remark.message
