"""Columns of a language model: which are learned, which are read before, and which are refused."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.contents import find_content
from jaxdistill.data.reading.documents import Documents
from jaxdistill.data.reading.table import Table
from jaxdistill.data.text.bpe import END, trained_tokenizer
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.errors import DataError

ASKED, ANSWER = "What is 3 plus 5?", "It is 8, of course."


def content(config: DataConfig | None = None, **columns):
    table = Table({name: [value] for name, value in columns.items()}, "here")
    return find_content(table, config or DataConfig(train="x"))


def turns(*contents: str, roles=("user", "assistant")) -> list[dict[str, str]]:
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("question", "answer"),
        ("Question", "Answer"),
        ("query", "response"),
        ("prompt", "response"),
        ("instruction", "output"),
        ("instruction", "response"),
        ("input", "output"),
    ],
)
def test_questions_and_answers_are_turns_of_a_chat(asked, answer):
    found = content(**{asked: ASKED, answer: ANSWER, "url": "x"})
    assert found.kind == "chats"
    assert found.values == [turns(ASKED, ANSWER)]
    assert found.columns == (asked, answer)


def test_what_a_question_is_about_follows_it_and_the_system_begins():
    alpaca = content(instruction="Add.", input="3 and 5", output="8")
    assert alpaca.values == [turns("Add.\n\n3 and 5", "8")]
    assert content(instruction="Add 3.", input="", output="8").values == [turns("Add 3.", "8")]
    dolly = content(instruction="Who?", context="Ann came.", response="Ann", category="qa")
    assert dolly.values == [turns("Who?\n\nAnn came.", "Ann")]
    orca = content(system_prompt="Be brief.", question="Who?", response="Ann")
    roles = ("system", "user", "assistant")
    assert orca.values == [turns("Be brief.", "Who?", "Ann", roles=roles)]
    table = Table({"question": ["Who?", "What?"], "answer": ["Ann", None]}, "here")
    assert find_content(table, DataConfig(train="x")).values == [turns("Who?", "Ann"), None]


def test_prompts_and_completions_stay_as_they_are():
    found = content(prompt="The sky is", completion=" blue.")
    assert (found.kind, found.values) == ("pairs", [("The sky is", " blue.")])
    named = DataConfig(train="x", prompt="content", completion="summary")
    found = content(named, content="long", summary="short", text="other")
    assert (found.kind, found.values) == ("pairs", [("long", "short")])
    assert content(prompt="a", completion=" ").values == [None]


def test_prompts_of_messages_are_read_and_not_learned():
    early = turns("Hello", "Hi", "Go on", roles=("user", "assistant", "user"))
    found = content(prompt=early, completion=[{"role": "assistant", "content": "Well"}])
    assert found.kind == "chats"
    (chat,) = found.values
    assert [turn["role"] for turn in chat] == ["user", "assistant", "user", "assistant"]
    assert [turn.get("weight", 1) for turn in chat] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"content": "a", "summary": "b"},
            r"data\.text=content or data\.prompt=content data\.completion=summary",
        ),
        ({"article": "a", "highlights": "b"}, r"data\.prompt=article data\.completion=highlights"),
        ({"question": "a", "context": "b", "answers": {"text": ["c"]}}, "completion=answers"),
        ({"sentence": "a", "text": "b"}, r"data\.text=sentence or data\.text=text"),
        ({"title": "a", "body": "b"}, r"data\.text=body or data\.text=title"),
        ({"instruction": "a", "output": "b", "text": "c"}, r"output or data\.text=text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"\['prompt', 'chosen', 'rejected'\]"),
        ({"question": "a", "answer": 3}, r"here row 1: got answer='3', expected text"),
    ],
)
def test_what_could_mean_several_things_is_asked_for(columns, message):
    with pytest.raises(DataError, match=message):
        content(**columns)


def test_a_column_of_nothing_is_no_candidate():
    found = content(messages=None, text="a")
    assert (found.kind, found.columns) == ("texts", ("text",))


@pytest.mark.parametrize("fields", [{"label": "text"}, {"image": "text"}, {"text_pair": "text"}])
def test_columns_of_other_tasks_are_refused(fields):
    with pytest.raises(DataError, match=rf"data\.{next(iter(fields))}: has no effect"):
        content(DataConfig(train="x", **fields), text="a")
    with pytest.raises(DataError, match=r"data\.messages: got data\.messages and data\.text"):
        content(DataConfig(train="x", messages="m", text="text"), m=[], text="a")


def test_only_completions_are_learned_to_their_end(tmp_path):
    pairs = [
        ("The sky is", " blue today."),
        ("Double  spaces  here:  ", "yes"),
        ("Naïve café — ", "crème brûlée 😀"),
        ("", "nothing before"),
    ]
    folder = trained_tokenizer([a + b for a, b in pairs], vocabulary=260, folder=tmp_path)
    tokenizer = load_tokenizer(folder)
    corpus = tokenize_documents(
        Documents(pairs, False, "here", pairs=True), folder=folder, cache_dir=tmp_path
    )
    for (prompt, completion), start, stop in zip(
        pairs, corpus.offsets[:-1], corpus.offsets[1:], strict=True
    ):
        ids, learned = corpus.ids[start:stop], corpus.learned[start:stop]
        # As many as the prompt has by itself are read only, behind the token that begins texts.
        count = 1 + len(tokenizer(prompt)["input_ids"])
        np.testing.assert_array_equal(learned, np.arange(len(ids)) >= count)
        assert tokenizer.decode(ids[learned]) == completion + END
        assert tokenizer.decode(ids) == END + prompt + completion + END
        assert corpus.sizes[start:stop][learned].sum() == len(completion.encode())
    again = tokenize_documents(
        Documents(pairs, False, "here", pairs=True), folder=folder, cache_dir=tmp_path
    )
    np.testing.assert_array_equal(again.learned, corpus.learned)


def test_the_end_that_a_tokenizer_adds_is_learned(tokenizer_folder):
    documents = Documents([("a b", " good film")], False, "here", pairs=True)
    corpus = tokenize_documents(documents, folder=tokenizer_folder, cache_dir=None)
    tokens = load_tokenizer(tokenizer_folder).convert_ids_to_tokens(corpus.ids.tolist())
    assert tokens == ["[CLS]", "a", "b", "good", "film", "[SEP]"]
    assert corpus.learned.tolist() == [False, False, False, True, True, True]
