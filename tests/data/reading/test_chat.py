"""Chats under templates as they are met: what is learned is what transformers writes behind a
prompt, and what a template refuses or loses is named."""

import json

import numpy as np
import pytest
from support.chats import CALL, TEMPLATES, TOOL, WEATHER, assistant, chat_tokenizer, user

from jaxdistill.data.reading.chat import chat_of, render
from jaxdistill.data.reading.documents import Documents
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.errors import DataError

SYSTEM = {"role": "system", "content": "be nice"}
TALK = [user("hi"), assistant("hello 😀"), user("bye"), assistant("ciao")]


def learned(template, messages, **fields):
    """The learned parts of each text that is made of a chat."""
    written = render(chat_tokenizer(template), chat_of(messages, **fields))
    return [[text[a:b] for a, b in spans] for text, spans in written.texts]


def faults(template, messages, **fields):
    return set(render(chat_tokenizer(template), chat_of(messages, **fields)).faults)


def corpus(template, *chats, tmp_path):
    tokenizer = chat_tokenizer(template)
    tokenizer.save_pretrained(tmp_path / "folder")
    documents = Documents(chats, True, "here")
    return tokenizer, tokenize_documents(documents, folder=tmp_path / "folder", cache_dir=None)


@pytest.mark.parametrize("template", ["chatml", "tools", "strict", "marked"])
def test_learned_tokens_are_those_behind_what_transformers_asks_with(template, tmp_path):
    tokenizer, found = corpus(template, chat_of(TALK), tmp_path=tmp_path)
    whole = tokenizer.apply_chat_template(TALK)["input_ids"]
    assert found.ids.tolist() == whole
    expected = np.zeros(len(whole), bool)
    for turn in (1, 3):
        asked = tokenizer.apply_chat_template(TALK[:turn], add_generation_prompt=True)["input_ids"]
        through = tokenizer.apply_chat_template(TALK[: turn + 1])["input_ids"]
        assert whole[: len(through)] == through
        expected[len(asked) : len(through)] = True
    if template == "marked":
        expected = np.array(
            tokenizer.apply_chat_template(TALK, return_assistant_tokens_mask=True)[
                "assistant_masks"
            ],
            bool,
        )
    np.testing.assert_array_equal(found.learned, expected)
    assert found.sizes.sum() == len(tokenizer.decode(whole).encode())


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        ("chatml", TALK, [["hello 😀<|im_end|>\n", "ciao<|im_end|>\n"]]),
        ("inst", TALK, [[" hello 😀<|im_end|>", " ciao<|im_end|>"]]),
        # A greeting: no question stands before it, yet its header is not the assistant's.
        (
            "chatml",
            [assistant("welcome"), user("hi"), assistant("yes")],
            [["welcome<|im_end|>\n", "yes<|im_end|>\n"]],
        ),
        (
            "chatml",
            [user("a"), assistant("b"), assistant("c")],
            [["b<|im_end|>\n", "c<|im_end|>\n"]],
        ),
        ("chatml", [user("a"), assistant("")], [["<|im_end|>\n"]]),
        ("strict", [user(" a "), assistant(" b \n")], [["b<|im_end|>\n"]]),
        # Earlier turns are written otherwise: each answer is learned as it is when it is given.
        (
            "think",
            TALK,
            [
                ["<think>\n\n</think>\n\nhello 😀<|im_end|>\n"],
                ["<think>\n\n</think>\n\nciao<|im_end|>\n"],
            ],
        ),
        ("last", TALK, [["hello 😀<|im_end|>"], ["ciao<|im_end|>"]]),
        (
            "think",
            [user("a"), assistant("<think>hm</think>b")],
            [["<think>\nhm\n</think>\n\nb<|im_end|>\n"]],
        ),
        (
            "think",
            [user("a"), assistant("b", reasoning_content="hm")],
            [["<think>\nhm\n</think>\n\nb<|im_end|>\n"]],
        ),
        ("opened", [user("a"), assistant("b")], [["b<|im_end|>\n"]]),
        ("opened", [user("a"), assistant("<think>\nhm</think>b")], [["hm</think>b<|im_end|>\n"]]),
    ],
)
def test_what_is_learned_of_a_chat(template, messages, expected):
    assert learned(template, messages) == expected


def test_texts_of_separate_answers_are_those_of_transformers_prefixes(tmp_path):
    tokenizer, found = corpus("think", chat_of(TALK), tmp_path=tmp_path)
    expected = [tokenizer.apply_chat_template(TALK[:n])["input_ids"] for n in (2, 4)]
    assert found.ids.tolist() == [token for row in expected for token in row]
    assert np.diff(found.offsets).tolist() == [len(row) for row in expected]
    assert found.faults["split"] == 1


@pytest.mark.parametrize("template", ["chatml", "marked", "think", "last"])
def test_turns_of_weight_0_are_read_and_not_learned(template):
    chat = [user("hi"), assistant("wrong", weight=0), user("again"), assistant("right", weight=1)]
    ((said,),) = learned(template, chat)
    assert "right" in said
    assert "wrong" not in said
    ((text, _),) = render(chat_tokenizer(template), chat_of(chat)).texts
    assert "wrong" in text


def test_tools_and_calls_are_written_as_by_transformers(tmp_path):
    chat = [
        user("How is Oslo?"),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4 C", "name": "get_weather"},
        assistant("It is 4 C."),
    ]
    tokenizer, found = corpus("tools", chat_of(chat, tools=[TOOL]), tmp_path=tmp_path)
    whole = tokenizer.apply_chat_template(chat, tools=[TOOL], tokenize=False)
    assert tokenizer.decode(found.ids) == whole
    assert "Weather of a city" in whole
    said = tokenizer.decode(found.ids[found.learned])
    assert said == '<call>get_weather{"city": "Oslo"}</call><|im_end|>\nIt is 4 C.<|im_end|>\n'


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("tools", {"city": "Oslo"}),
        ("tools", '{"city": "Oslo"}'),  # OpenAI's: JSON already, which this template writes again
        ("joined", {"city": "Oslo"}),
        ("joined", '{"city": "Oslo"}'),
        ("tools", {}),
    ],
)
def test_arguments_of_calls_are_json_once(template, arguments):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    chat = [user("a"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    ((said,),) = learned(template, chat)
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    assert said.removesuffix("<|im_end|>\n").removesuffix("</call>") == f"<call>f{written}"


def test_variables_of_the_template_reach_it():
    asked = [user("a"), assistant("b")]
    tokenizer = chat_tokenizer("think")
    ((_, ((start, _),)),) = render(
        tokenizer, chat_of(asked, variables={"enable_thinking": False})
    ).texts
    prompt = tokenizer.apply_chat_template(
        asked[:1], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert start == len(prompt)
    assert prompt.endswith("</think>\n\n")


@pytest.mark.parametrize(
    ("template", "messages", "fields", "expected"),
    [
        ("chatml", TALK, {}, set()),
        ("chatml", TALK, {"tools": [TOOL]}, {"tools"}),
        ("tools", TALK, {"tools": [TOOL]}, set()),
        ("inst", [SYSTEM, *TALK], {}, {"messages"}),
        ("inst", [{"role": "developer", "content": "x"}, *TALK], {}, {"messages"}),
        ("chatml", [user("a"), assistant("b", reasoning_content="hm")], {}, {"reasoning"}),
        ("chatml", [user("a"), assistant("<think>hm</think>b")], {}, set()),
        ("chatml", [user("a"), assistant(" ")], {}, {"empty"}),
        ("think", TALK, {}, {"split"}),
        ("opened", [user("a"), assistant("b")], {}, {"unprompted"}),
    ],
)
def test_what_a_template_loses_is_counted(template, messages, fields, expected):
    assert faults(template, messages, **fields) == expected


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("strict", [SYSTEM, *TALK], r"line 3: .*\['system', 'user'.*System role not supported"),
        ("strict", [assistant("a"), user("b")], r"\['assistant', 'user'\]: .*must alternate"),
        (
            "chatml",
            [user("a"), {"role": "assistant", "tool_calls": [CALL]}],
            "line 3: the chat template writes no tool calls, so the answer .*get_weather",
        ),
    ],
)
def test_what_a_template_refuses_is_named(template, messages, message):
    with pytest.raises(DataError, match=message):
        render(chat_tokenizer(template), chat_of(messages, where="chats.jsonl line 3"))


def test_the_template_for_tools_is_taken_where_there_are_two():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": TEMPLATES["tools"]}
    written = render(tokenizer, chat_of(TALK, tools=[TOOL]))
    assert "Weather of a city" in written.texts[0][0]
    assert "tools" not in written.faults
    assert render(tokenizer, chat_of(TALK)).texts[0][0].startswith("<bos>")
    assert WEATHER["name"] in written.texts[0][0]
