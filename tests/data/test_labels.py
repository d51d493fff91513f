"""Labels as ids, scores or vectors, and every label that cannot be."""

import logging

import numpy as np
import pytest
from support.labels import encode, table

from jaxdistill.data.labels import encode_labels, label_space
from jaxdistill.data.reading.table import select
from jaxdistill.errors import DataError


@pytest.mark.parametrize(
    ("values", "options", "ids", "names"),
    [
        (["b", "a", "b"], {}, [1, 0, 1], ("a", "b")),
        (["b", "a"], {"labels": ["b", "a"]}, [0, 1], ("b", "a")),
        (["0", "2", "1"], {}, [0, 2, 1], None),
        (["0", " 1 "], {"num_labels": 3}, [0, 1], None),
        ([0, 1], {"labels": ["no", "yes"]}, [0, 1], ("no", "yes")),
        (np.array([1, 0], np.uint8), {}, [1, 0], None),
        ([1.0, 0.0], {}, [1, 0], None),
        ([True, False], {}, [1, 0], None),
        (["-1", "1"], {"labels": ["-1", "1"]}, [0, 1], ("-1", "1")),
        ([5, 3], {"labels": ["3", "4", "5"]}, [2, 0], ("3", "4", "5")),
        (["Pos", "neg"], {"labels": ["NEG", "POS"]}, [1, 0], ("NEG", "POS")),
        ([0, 1], {"names": ("no", "yes")}, [0, 1], ("no", "yes")),
        ([0, 1], {"names": ("no", "yes"), "labels": ["Yes", "No"]}, [1, 0], ("Yes", "No")),
        (["b", "a"], {"labels": ["LABEL_0", "LABEL_1"]}, [1, 0], ("a", "b")),
    ],
)
def test_names_and_numbers_become_ids(values, options, ids, names):
    found, space = encode(values, **options)
    assert found == ids
    assert space.names == names
    assert space.count == len(names) if names else options.get("num_labels", max(ids) + 1)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, 1, 2], {"num_labels": 2}, r"rows.tsv row 3: got label 2, expected 0 to 1"),
        ([0, -1], {}, r"labels -1, 0, of which -1 may be a class .* set data.labels=\[-1, 0\]"),
        ([0, 1, -1], {"names": ("no", "yes")}, r"row 3: got label -1, .*-1 marks rows without"),
        (["0", "2"], {"labels": ["no", "yes"]}, r"row 2: got label 2, .*data.labels=\[0, 2\]"),
        (
            ["positive", "negtive"],
            {"labels": ["negative", "positive"]},
            r"row 2: got label 'negtive', expected one of .*Did you mean 'negative'",
        ),
        (["a", "0"], {"labels": ["a", "b"]}, r"^$"),
        (["a", ""], {}, r"row 2: got no label \(''\)"),
        ([0, None], {}, r"row 2: got no label \(None\)"),
        ([0, float("nan")], {}, r"row 2: got no label \(nan\)"),
        ([0, 1.5], {}, r"such as 1.5, 2 different .* a name or an integer; set task=regression"),
        ([["a"], ["b", "c"]], {}, r"row 1: got label \['a'\], .*set task=multilabel"),
        (["a", "b", "c"], {"num_labels": 2}, r"has 3 classes \['a', 'b', 'c'\], expected 2"),
        (["a"], {"labels": ["a", "a"]}, r"data.labels: got \['a', 'a'\], expected each name once"),
        (["a"], {"labels": ["a"], "num_labels": 2}, r"data.labels: got 1 names, expected 2"),
    ],
)
def test_bad_labels_are_named(values, options, message):
    if message == "^$":  # a number among names is an id
        assert encode(values, **options)[0] == [0, 0]
        return
    with pytest.raises(DataError, match=message):
        encode(values, **options)


def test_classes_of_the_model_that_never_occur_are_said(caplog):
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert encode([1, 3], outputs=4)[0] == [1, 3]
    assert "no row has a label of [0, 2]" in caplog.text


@pytest.mark.parametrize(
    ("values", "options", "ids", "names"),
    [
        ([10023, 20011, 10023], {}, [0, 1, 0], ("10023", "20011")),
        (["20011", "10023"], {}, [1, 0], ("10023", "20011")),
        ([1, 2, 3, 1], {}, [0, 1, 2, 0], ("1", "2", "3")),
        ([10, 9, 2.0], {}, [2, 1, 0], ("2", "9", "10")),
        (["0", "4"], {}, [0, 1], ("0", "4")),
        ([-1, 1, -1], {}, [0, 1, 0], ("-1", "1")),
        (["-1", "+1"], {}, [0, 1], ("-1", "1")),
        ([-2, -1, 0, 1, 2], {}, [0, 1, 2, 3, 4], ("-2", "-1", "0", "1", "2")),
        (["01", "02", "10"], {}, [0, 1, 2], ("01", "02", "10")),
        (np.array([1, 10, 5], np.uint8), {}, [0, 2, 1], ("1", "5", "10")),
        (["1", 0, 1.0, "0.0", True], {}, [1, 0, 1, 0, 1], None),
        (["True", "False"], {}, [1, 0], ("False", "True")),
        ([[2], [1]], {}, [1, 0], ("1", "2")),
        ([0, 3], {"outputs": 4}, [0, 3], None),
        ([0, 4], {"outputs": 2}, [0, 1], ("0", "4")),
        ([1.0, 1.5, 2.0], {"labels": ["1.0", "1.5", "2.0"]}, [0, 1, 2], ("1.0", "1.5", "2.0")),
        (["pos ", " neg"], {}, [1, 0], ("neg", "pos")),
        (["Neg", "neg", "POS"], {"labels": ["neg", "pos"]}, [0, 0, 1], ("neg", "pos")),
        (["not entailed"], {"labels": ["not_entailed"]}, [0], ("not_entailed",)),
        (["nan"], {"labels": ["nan"]}, None, None),
    ],
)
def test_numbers_are_ids_only_where_they_count_from_0(values, options, ids, names):
    if ids is None:
        with pytest.raises(DataError, match="got no label"):
            encode(values, **options)
        return
    found, space = encode(values, **options)
    assert (found, space.names) == (ids, names)
    assert space.count == (len(names) if names else options.get("outputs", 2))


def test_codes_are_names_in_every_split():
    # 0 to 2 are no ids here: the training data has 1 to 3.
    assert encode([1, 2, 3], rows=["3", "1"])[0] == [2, 0]
    with pytest.raises(DataError, match=r"got label '0', .* list all names as data.labels"):
        encode([1, 2, 3], rows=[0, 1])
    assert encode([1, 2, 3], labels=["0", "1", "2", "3"], rows=[0, 1])[0] == [0, 1]
    with pytest.raises(DataError, match=r"got label 2, expected 0 to 1"):
        encode([0, 1], rows=[0, 2])


@pytest.mark.parametrize("kind", [int, str])
def test_numbers_that_no_float_tells_apart_are_names(kind):
    codes = [kind(2**53), kind(2**53 + 1), kind(10**30)]
    found, space = encode([codes[1], codes[0], codes[2], codes[1]])
    assert space.names == tuple(sorted(map(str, codes)))
    assert found == [space.names.index(str(codes[i])) for i in (1, 0, 2, 1)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1" * 5000, "0"], r"such as"),
        (["3.8", "4.0", "0.5"], r"such as 0.5, 3 different numbers with dec.*set task=regression"),
        ([1.0, 1.5, 5.0], r"task=regression, or list the 3 labels as data.labels"),
        (np.linspace(0, 1, 30), r"30 different numbers.*set task=regression"),
        (["3,8", "4"], r"such as '3,8', .* decimal comma.*write a point"),
        (["0", "1", "N/A"], r"'N/A' among numbers; drop the rows without a label"),
        (["0", "nan"], r"row 2: got no label \('nan'\)"),
        ([0, 1, 2, -1], r"labels -1, 0, 1, 2, of which -1 may be a class or mark rows without"),
    ],
)
def test_scores_and_missing_labels_are_no_classes(values, message):
    with pytest.raises(DataError, match=message):
        encode(values)


def test_what_the_refusals_of_scores_say_can_be_done():
    assert encode(["3.8", "4.0"], labels=["3.8", "4.0"])[0] == [0, 1]
    assert encode([1.0, 1.5], task="regression")[0] == [1.0, 1.5]
    assert encode(["0", "N/A"], labels=["0", "N/A"])[0] == [0, 1]
    assert encode([0, -1], labels=["-1", "0"])[0] == [1, 0]
    assert encode([1, 2, 3], labels=["1", "2", "3"])[0] == [0, 1, 2]


def test_scores_are_numbers():
    found, space = encode(["2.5", 3, np.float64(0)], task="regression")
    assert found == [2.5, 3.0, 0.0]
    assert (space.count, space.names) == (1, None)
    for bad, message in [
        ("x", "got label 'x', expected a number"),
        ("nan", "finite number"),
        ("1e39", "at most 3.4e.38"),
    ]:
        with pytest.raises(DataError, match=f"row 2: .*{message}"):
            encode(["1", bad], task="regression")


@pytest.mark.parametrize(
    ("values", "options", "names"),
    [
        ([["a", "c"], [], ["b"]], {}, ("a", "b", "c")),
        (["a, c", "", "b"], {"labels": ["a", "b", "c"]}, ("a", "b", "c")),
        (["0,2", "", "1"], {}, None),
        ([[0, 2], [], [1]], {"labels": ["x", "y", "z"]}, ("x", "y", "z")),
        (np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), {}, None),
    ],
)
def test_several_labels_become_vectors(values, options, names):
    found, space = encode(values, task="multilabel", **options)
    assert found == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert space.names == names


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([[0, 2, 2]], {}, r"row 1: got the labels \[0, 2, 2\], expected each once"),
        ([["a"], None], {}, r"row 2: got no labels \(None\)"),
        ([["a"], ["d"]], {"labels": ["a", "b"]}, r"row 2: got label 'd', expected one of"),
        (np.array([[2, 0]]), {}, r"got labels of shape \(1, 2\), expected \[rows, 2\] of 0 and 1"),
    ],
)
def test_bad_sets_of_labels_are_named(values, options, message):
    with pytest.raises(DataError, match=message):
        encode(values, task="multilabel", **options)


def test_flag_columns_become_vectors_in_the_order_of_names():
    rows = table(toxic=["1", "0"], rude=["0", "0.0"])
    for names, expected in [(None, [[1, 0], [0, 0]]), (["rude", "toxic"], [[0, 1], [0, 0]])]:
        columns = ["toxic", "rude"]
        space = label_space(rows, columns, task="multilabel", labels=names, num_labels=None)
        assert encode_labels(rows, columns, space, task="multilabel").tolist() == expected
    words = table(toxic=["True", "false"], rude=["0", "1"])
    space = label_space(
        words, columns, task="multilabel", labels=["Rude", "Toxic"], num_labels=None
    )
    assert encode_labels(words, columns, space, task="multilabel").tolist() == [[0, 1], [1, 0]]
    bad = table(toxic=["1", "2"], rude=["0", "0"])
    with pytest.raises(DataError, match="row 2: got toxic='2', expected 0 or 1"):
        encode_labels(bad, ["toxic", "rude"], space, task="multilabel")


def test_a_row_remembers_where_it_came_from():
    part = select(select(table(label=["a", "b", "c"]), np.array([2, 0])), np.array([0]))
    assert part.columns["label"] == ["c"]
    assert part.at(0) == "rows.tsv row 3"
