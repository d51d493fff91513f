"""Texts that a teacher wrote: kept as they were written, and told where they are read otherwise."""

import json

import pytest
from support.chats import CALL, TOOL, assistant, chat_tokenizer, user

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.chat import chat_of
from jaxdistill.data.reading.chat_rows import chats_of
from jaxdistill.data.reading.documents import Documents
from jaxdistill.data.reading.table import Table
from jaxdistill.data.text.corpus import tokenize_documents
from jaxdistill.distill import texts_stage


def word_tokenizer(**settings):
    """Words between spaces; transformers cleans what it decodes of such a tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", "a", ",", "b", ".", "n't", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=True,
        **settings,
    )


def kept(tokenizer, text, written, tmp_path, length=64):
    """The text that is kept of a document that is continued, and whether it is read back."""
    tokenizer.save_pretrained(tmp_path)
    documents = Documents([text], False, "here")
    corpus = tokenize_documents(documents, folder=tmp_path, cache_dir=None)
    (prompt, *_), keep = texts_stage.beginnings(corpus, tokenizer, length, length - 1)
    line = keep(0, written)
    return line["text"], texts_stage.same_tokens(line, prompt, written, tokenizer)


def test_spaces_before_marks_stay(tmp_path):
    tokenizer = word_tokenizer()
    assert tokenizer.decode(tokenizer("a , b .")["input_ids"]) == "a, b."
    text, same = kept(tokenizer, "a , b .", tokenizer("n't , a")["input_ids"], tmp_path)
    assert text == "a , b . n't , a"
    assert same


def test_special_tokens_inside_of_a_text_stay(tmp_path):
    tokenizer = chat_tokenizer(None, eos_token="<eos>")
    text, same = kept(tokenizer, "a<|im_start|>b", tokenizer("<|im_end|>c")["input_ids"], tmp_path)
    assert text == "a<|im_start|>b<|im_end|>c"
    assert same


def test_what_is_not_read_as_it_was_written_is_found(tmp_path):
    tokenizer = chat_tokenizer(None, eos_token="<eos>")
    half = tokenizer("é")["input_ids"][:1]
    text, same = kept(tokenizer, "caf", half, tmp_path)
    assert text == "caf�"
    assert not same


@pytest.mark.parametrize(
    ("template", "answer", "same"),
    [
        ("chatml", "  hello , you \n", True),
        ("strict", "hello", True),
        ("strict", " hello", False),  # trimmed by the template
        ("think", "<think>\nhm\n</think>\n\nhello", True),
        ("think", "hello", False),  # an answer without the thoughts that the template writes
        ("chatml", "say <|im_start|> <eos>", True),
    ],
)
def test_answers_are_read_back_where_the_template_writes_them_so(template, answer, same):
    tokenizer = chat_tokenizer(template)
    documents = Documents([chat_of([user("hi"), assistant("x")])], True, "here")
    (prompt,), keep = texts_stage.questions(documents, tokenizer, 99)
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    line = keep(0, tokens)
    assert line == {"messages": [user("hi"), assistant(answer)]}
    assert texts_stage.same_tokens(line, prompt, tokens, tokenizer) == same


def test_a_question_keeps_tools_variables_and_what_is_not_learned():
    tokenizer = chat_tokenizer("tools")
    before = [user("hi"), assistant("no", weight=0), user("Oslo?")]
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    chat = chat_of([*before, answer], tools=[TOOL], variables={"enable_thinking": False})
    (prompt,), keep = texts_stage.questions(Documents([chat], True, "here"), tokenizer, 999)
    asked = tokenizer.apply_chat_template(
        before, tools=[TOOL], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompt) == asked
    line = json.loads(json.dumps(keep(0, tokenizer("4 C")["input_ids"])))
    table = Table({name: [value] for name, value in line.items()}, "told.jsonl")
    read = (chats_of(table, DataConfig(train="told.jsonl")) or [])[0]
    assert read.messages == [*chat.messages[:3], assistant("4 C")]
    assert read.learned == (False, False, False, True)
    assert (read.tools, read.variables) == (chat.tools, chat.variables)
