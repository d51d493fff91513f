"""Columns as published data sets call them: which are read, and which are told not to be."""

import pytest
from support import labels

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.columns import find_roles, remarks_on
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

SENTENCE = "Wall Street's dwindling band of {}"


def table(names: str, doubt: str = "") -> Table:
    """A table whose columns of lower-case names are sentences, others codes."""
    columns = {
        name.removesuffix("*"): [
            SENTENCE.format(i) if name.endswith("*") else str(i % 2) for i in range(40)
        ]
        for name in names.split(",")
    }
    return Table(columns, "here", header_doubt=doubt)


@pytest.mark.parametrize(
    ("names", "inputs", "label"),
    [
        ("index,sentence1*,sentence2*,label", ("sentence1", "sentence2"), "label"),  # RTE, PAWS
        ("Quality,#1 ID,#2 ID,#1 String*,#2 String*", ("#1 String", "#2 String"), "Quality"),
        ("id,qid1,qid2,question1*,question2*,is_duplicate", ("question1", "question2"), None),
        ("gold_label,sentence1*,sentence1_parse*,sentence2*", ("sentence1", "sentence2"), None),
        ("premise*,hypothesis*,label", ("premise", "hypothesis"), "label"),
        ("label1,gold_label,sentence1*,sentence2*", ("sentence1", "sentence2"), "gold_label"),
        ("pair_ID,sentence_A*,sentence_B*,entailment_judgment", ("sentence_A", "sentence_B"), None),
        ("question*,passage*,label", ("question", "passage"), "label"),
        ("review*,sentiment", ("review",), "sentiment"),
        ("Text*,Label", ("Text",), "Label"),
        ("label,text_a*", ("text_a",), "label"),
        ("text_a*,text_b*,label", ("text_a", "text_b"), "label"),
        ("tweet*,class", ("tweet",), "class"),
        ("utterance*,intent", ("utterance",), "intent"),
        ("body*,category,label", ("body",), "label"),
        ("text*,category,label", ("text",), "label"),
        ("headline*,category", ("headline",), "category"),
    ],
)
def test_usual_names_are_found(names, inputs, label):
    found = table(names)
    roles = find_roles(found, DataConfig(train="x"), task="classification")
    assert roles.inputs == inputs
    if label is not None:
        assert roles.labels == (label,)
    assert not remarks_on(found, (*roles.inputs, *roles.labels))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("Class Index,Title*,Description*", r"could mean \['Title', 'Description'\]"),
        ("question*,passage*,context*,label", r"could mean \[\['question', 'passage'\], \['que"),
        ("text*,stars,sentiment", r"could mean \['sentiment', 'stars'\]"),
    ],
)
def test_several_columns_are_asked_about(names, message):
    with pytest.raises(DataError, match=message):
        find_roles(table(names), DataConfig(train="x"), task="classification")


def test_scores_are_found_for_regression():
    names = "pair_ID,sentence_A*,sentence_B*,relatedness_score,entailment_judgment"
    roles = find_roles(table(names), DataConfig(train="x"), task="regression")
    assert roles.labels == ("relatedness_score",)
    roles = find_roles(table("review_body*,stars"), DataConfig(train="x"), task="regression")
    assert (roles.inputs, roles.labels) == (("review_body",), ("stars",))


def test_texts_that_are_not_read_are_told():
    columns = {
        "label": ["0", "1"] * 20,
        "title": [f"Great book number {i}" for i in range(40)],
        "content": [SENTENCE.format(i) for i in range(40)],
        "summary": [f"酒店不错房间很干净{i}" for i in range(40)],
        "url": [f"http://x/{i}" for i in range(40)],
        "genre": ["a kind of book"] * 40,
        "votes": list(range(40)),
        "nothing": [None] * 40,
    }
    found = Table(columns, "here")
    roles = find_roles(found, DataConfig(train="x"), task="classification")
    assert roles.inputs == ("content",)
    (remark,) = remarks_on(found, (*roles.inputs, *roles.labels))
    assert remark.name == "unread columns"
    assert "the texts in title, summary are not read, only content, label" in remark.message


def test_a_doubtful_header_is_in_the_error_and_in_the_remarks():
    found = table("gj04,a b*", doubt="its first row looks like data")
    with pytest.raises(DataError, match=r"no column with a usual name; its first row looks like"):
        find_roles(found, DataConfig(train="x"), task="classification")
    named = DataConfig(train="x", text="a b", label="gj04")
    roles = find_roles(found, named, task="classification")
    (remark,) = remarks_on(found, (*roles.inputs, *roles.labels))
    assert (remark.name, remark.message) == ("header", "here: its first row looks like data")


@pytest.mark.parametrize("key", ["messages", "prompt", "completion"])
def test_columns_of_language_models_are_refused(key):
    both = {"prompt": "text", "completion": "text"} if key != "messages" else {key: "text"}
    with pytest.raises(DataError, match=r"data\.(messages|prompt): has no effect for task 'class"):
        find_roles(table("text*,label"), DataConfig(train="x", **both), task="classification")


def roles_of(columns: str, task="classification", **values):
    """Return the roles of columns that hold 0 and 1."""
    rows = {name: ["0", "1"] for name in columns.split()}
    return find_roles(labels.table(**rows), DataConfig(train="rows.tsv", **values), task=task)


@pytest.mark.parametrize(
    ("columns", "inputs"),
    [
        ("sentence label", ("sentence",)),
        ("idx text label", ("text",)),
        ("index sentence1 sentence2 label", ("sentence1", "sentence2")),
        ("premise hypothesis label", ("premise", "hypothesis")),
        ("question1 question2 label", ("question1", "question2")),
        ("question sentence label", ("question", "sentence")),
    ],
)
def test_usual_columns_are_found(columns, inputs):
    found = roles_of(columns)
    assert (found.modality, found.inputs, found.labels) == ("text", inputs, ("label",))


def test_given_columns_win():
    found = roles_of("sentence text note kind", text="text", text_pair="note", label="kind")
    assert (found.inputs, found.labels) == (("text", "note"), ("kind",))
    assert roles_of("a b label", image="a").modality == "image"
    assert roles_of("sentence label score", "regression").labels == ("score",)
    assert roles_of("sentence label score").labels == ("label",)
    assert roles_of("image label").modality == "image"


def test_flags_are_found_for_several_labels():
    columns = {"id": "11", "comment_text": "01", "toxic": "01", "rude": "11"}
    found = find_roles(labels.table(**columns), DataConfig(train="x"), task="multilabel")
    assert found.labels == ("toxic", "rude")
    found = find_roles(
        labels.table(**columns), DataConfig(train="x", labels=("rude", "toxic")), task="multilabel"
    )
    assert found.labels == ("rude", "toxic")


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (
            "sentence text label",
            {},
            r"data.text: .* could mean \['sentence', 'text'\], .* set",
        ),
        ("a b label", {}, r"data.text: .* has no column with a usual .*\['a', 'b', 'label'\]"),
        (
            "sentence kind",
            {},
            r"data.label: .* no column with a usual .*\['sentence', 'kind'\]",
        ),
        ("sentence label labels", {}, r"data.label: .* could mean \['label', 'labels'\]"),
        ("sentence label", {"text": "sentense"}, r"no column 'sentense'.*Did you mean 'sentence'"),
        ("sentence label", {"label": "lable"}, r"no column 'lable'.*Did you mean 'label'"),
        ("a b label", {"text_pair": "b"}, r"got only data.text_pair"),
        (
            "sentence1 sentence2 premise hypothesis label",
            {},
            r"could mean \[\['sentence1', 'sentence2'\], \['premise', 'hypothesis'\]\]",
        ),
    ],
)
def test_ambiguous_or_missing_columns_are_listed(columns, values, message):
    with pytest.raises(DataError, match=message):
        roles_of(columns, **values)
