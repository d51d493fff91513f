"""Names of labels: the model's, the data's, and the one that F1 is of."""

import logging

import pytest
from support.labels import encode

from jaxdistill.data.label_names import model_and_data_names, positive_label
from jaxdistill.errors import DataError


def told_names(values, names, wanted, source=None):
    """Encode values of a data set for a model with names, and `data.labels`."""
    labels, id_names = model_and_data_names(wanted, names)
    return encode(values, labels=labels, id_names=id_names, names=source)


MNLI, DATA = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], ["entailment", "neutral", "contradiction"]


@pytest.mark.parametrize(
    ("values", "wanted", "source", "ids"),
    [
        ([0, 1, 2], DATA, None, [2, 1, 0]),
        (["0", "1", "2"], DATA, None, [2, 1, 0]),
        ([0, 1, 2], None, tuple(DATA), [2, 1, 0]),
        ([0, 1, 2], DATA, tuple(DATA), [2, 1, 0]),
        ([0, 1, 2], MNLI, tuple(DATA), [2, 1, 0]),  # the model's own order, which changes nothing
        (DATA, None, None, [2, 1, 0]),
        (DATA, DATA, None, [2, 1, 0]),
        ([0, 1, 2], None, None, [0, 1, 2]),
        ([0, 1, 2], MNLI, None, [0, 1, 2]),
        (["no", "may be", "yes"], ["no", "may be", "yes"], None, [0, 1, 2]),
        ([1, 2, 3], ["1", "2", "3"], None, [0, 1, 2]),
        ([-1, 0, 1], ["-1", "0", "1"], None, [0, 1, 2]),
    ],
)
def test_names_of_the_data_are_matched_with_the_models(values, wanted, source, ids):
    found, space = told_names(values, MNLI, wanted, source)
    assert found == ids
    assert space.names == tuple(MNLI)


def test_rows_of_0_and_1_go_where_the_model_has_their_labels():
    labels, id_names = model_and_data_names(["b", "c", "a"], ["A", "B", "C"])
    given = {"task": "multilabel", "labels": labels, "id_names": id_names}
    found, space = encode([[1, 0, 0], [0, 1, 1]], **given)
    assert found == [[0, 1, 0], [1, 0, 1]]
    assert space.names == ("A", "B", "C")
    assert encode([["b"], ["c", "a"]], **given)[0] == found


def test_outputs_without_names_are_matched_by_their_numbers():
    for names in (None, ["LABEL_0", "LABEL_1", "LABEL_2"]):
        found, space = told_names([0, 1, 2, 0], names, ["LABEL_2", "LABEL_0", "LABEL_1"])
        assert found == [2, 0, 1, 2]
        assert space.count == 3


def test_names_that_contradict_are_refused():
    with pytest.raises(DataError, match=r"itself names its ids .*drop data.labels"):
        told_names([0, 1, 2], MNLI, ["neutral", "entailment", "contradiction"], tuple(DATA))
    for wanted in (["entailment", "neutral"], ["entailment", "neutral", "else"]):
        with pytest.raises(DataError, match=r"expected the model's own names .* data's ids"):
            told_names([0, 1], MNLI, wanted)
    with pytest.raises(DataError, match=r"got label 3, .*give them.*data.labels=\[1, 2, 3\]"):
        told_names([1, 2, 3], MNLI, None)


@pytest.mark.parametrize(
    ("names", "wanted", "place"),
    [
        (["fraud", "normal"], None, 0),
        (["ham", "spam"], None, 1),
        (["POSITIVE", "NEGATIVE"], None, 0),
        (["acceptable", "not_acceptable"], None, 0),
        (["entailment", "not-entailment"], None, 0),
        (["no", "yes"], None, 1),
        (["True", "False"], None, 0),
        (["-1", "1"], None, 1),
        (["cat", "dog"], None, 1),
        (None, None, 1),
        (["cat", "dog"], "Cat", 0),
        (None, "0", 0),
        (["a", "b", "c"], None, None),
        (["a", "b", "c"], "b", 1),
    ],
)
def test_the_label_that_f1_is_of(names, wanted, place):
    count = 2 if names is None else len(names)
    assert positive_label(wanted, names, count, exclusive=True) == place


def test_the_label_that_f1_is_of_must_exist():
    with pytest.raises(DataError, match=r"positive: got 'spma', expected .*Did you mean 'spam'"):
        positive_label("spma", ["ham", "spam"], 2, exclusive=True)
    assert positive_label(None, ["a", "b"], 2, exclusive=False) is None
    assert positive_label("b", ["a", "b"], 2, exclusive=False) == 1
    given = {"exclusive": True, "source_names": ["neg", "pos"]}
    assert positive_label("neg", ["LEFT", "RIGHT"], 2, **given) == 0


def test_names_of_the_source_that_differ_are_said(caplog):
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert encode([0, 1], names=("n", "p"), labels=["negative", "positive"])[0] == [0, 1]
    assert "ids are taken as they are" in caplog.text
