"""Several labels in one cell, in every way that pandas, NumPy, JSON and people write them."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from jaxdistill.data.label_cells import made_of
from jaxdistill.data.labels import encode_labels, label_space
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

ROWS = [["law", "sport"], [], ["money"], ["law"], ["money", "law"], ["sport"]]
NAMES = ("law", "money", "sport")
VECTORS = [[int(name in row) for name in NAMES] for row in ROWS]


def encode(values, *, task="multilabel", labels=None, other=None):
    """Encode values as training data, or others after they were seen."""
    table = Table({"labels": values}, "rows.csv")
    space = label_space(table, ["labels"], task=task, labels=labels, num_labels=None)
    table = table if other is None else Table({"labels": other}, "dev.csv")
    return encode_labels(table, ["labels"], space, task=task).tolist(), space


def through_csv(column) -> list[str]:
    """What a column is after pandas wrote it to CSV and it is read as text."""
    text = pd.DataFrame({"labels": column}).to_csv(index=False)
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)["labels"].tolist()


@pytest.mark.parametrize(
    "values",
    [
        ROWS,
        [tuple(row) for row in ROWS],
        [set(row) for row in ROWS],
        [np.array(row, object) for row in ROWS],
        [{name: int(name in row) for name in NAMES} for row in ROWS],
        through_csv(ROWS),
        through_csv([tuple(row) for row in ROWS]),
        through_csv([set(row) for row in ROWS]),
        through_csv([frozenset(row) for row in ROWS]),
        through_csv([np.array(row) for row in ROWS]),
        through_csv([[np.str_(name) for name in row] for row in ROWS]),
        [repr(np.array(row, object)) for row in ROWS],
        [json.dumps(row) for row in ROWS],
        [json.dumps(row) if row else "" for row in ROWS],
        [json.dumps({name: name in row for name in NAMES}) for row in ROWS],
        ["[" + ", ".join(row) + "]" for row in ROWS],
        ["{" + ",".join(row) + "}" for row in ROWS],
        ["|".join(row) for row in ROWS],
        [" ; ".join(row) for row in ROWS],
        [", ".join(row) for row in ROWS],
        ["\n".join(row) for row in ROWS],
    ],
)
def test_every_way_to_write_names_is_the_same(values):
    found, space = encode(values)
    assert found == VECTORS
    assert space.names == NAMES


FLAGS = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "values",
    [
        FLAGS,
        [[float(flag) for flag in row] for row in FLAGS],
        [[bool(flag) for flag in row] for row in FLAGS],
        [np.array(row, np.float32) for row in FLAGS],
        np.array(FLAGS),
        np.array(FLAGS, bool),
        through_csv(FLAGS),
        through_csv([[float(flag) for flag in row] for row in FLAGS]),
        through_csv([[bool(flag) for flag in row] for row in FLAGS]),
        through_csv([np.array(row) for row in FLAGS]),
        through_csv([np.array(row, float) for row in FLAGS]),
        through_csv([[np.int64(flag) for flag in row] for row in FLAGS]),
        ["1,0,1", "0,0,0", "0,1,0"],
        ["1 0 1", "0 0 0", "0 1 0"],
    ],
)
def test_rows_of_0_and_1_are_no_ids(values):
    found, space = encode(values)
    assert found == FLAGS
    assert (space.names, space.count) == (None, 3)
    assert encode(values, labels=["x", "y", "z"])[0] == FLAGS


def test_one_hot_rows_of_two_labels_are_no_ids():
    rows = [[1, 0], [0, 1], [1, 0]]
    assert encode(rows)[0] == rows
    assert encode([[1.0, 0.0], [0.0, 1.0]])[0] == [[1, 0], [0, 1]]
    # What the training data showed also holds where rows alone could be ids.
    assert encode(rows, other=[[0, 1]])[0] == [[0, 1]]


def test_lists_of_ids_stay_ids():
    for rows in ([[0, 2], [], [1]], through_csv([[0, 2], [], [1]]), ["0 2", "", "1"]):
        assert encode(rows)[0] == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert encode([[0], [1], [0, 1], []])[0] == [[1, 0], [0, 1], [1, 1], [0, 0]]
    found, space = encode([[10, 20], [20]])
    assert (found, space.names) == ([[1, 1], [0, 1]], ("10", "20"))


def test_names_with_separators_in_them_survive():
    rows = [["law, order", "sport"], ["sport"], ["R&B|soul"]]
    names = ("R&B|soul", "law, order", "sport")
    assert encode(rows)[1].names == names
    assert encode([json.dumps(row) for row in rows])[1].names == names
    assert encode(["law, order|sport", "sport", "law, order"])[1].names == ("law, order", "sport")
    found, _ = encode(["law, order", "sport"], labels=["law, order", "sport"])
    assert found == [[1, 0], [0, 1]]
    quoted = through_csv([["it's", 'say "hi"'], ["it's"], ["é, ü"]])
    assert encode(quoted)[1].names == ("it's", 'say "hi"', "é, ü")
    assert encode(["New York", "Rome"])[1].names == ("New York", "Rome")


def test_known_names_say_what_separates():
    names = ["haze", "primary"]
    assert encode(["haze primary", "primary"], labels=names)[0] == [[1, 1], [0, 1]]
    assert encode(["haze/primary", "primary"], labels=names)[0] == [[1, 1], [0, 1]]
    assert encode(["[deleted]", "kept"])[1].names == ("[deleted]", "kept")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (["law, order", "sport"], {}, r"'law' and 'order' only together.*data.labels=\[\"law, or"),
        (["law|sport", "law", "law,sport", "sport"], {}, r"with '\|' in some rows and .*','"),
        (["haze primary", "haze", "primary"], {}, r"may be one label or the labels \['haze', 'pri"),
        (["010", "100"], {}, r"'010', which may be .* a 0 or 1 for each of 3; write \[0, 1, 0\]"),
        ([[0], [1]], {}, r"one 0 or 1 in every row.*set task=classification"),
        (["0", "1"], {}, r"one 0 or 1 in every row"),
        ([[0.3, 0.7], [1.0, 0.0]], {}, r"row 1: got the labels \[0.3, 0.7\].*round soft labels"),
        ([[1, 0, 0], [0, 1]], {}, r"row 2: got 2 values of 0 and 1, expected 3"),
        ([[1, 0], [0, 1]], {"labels": ["a", "b", "c"]}, r"row 1: got 2 values.*expected 3"),
        (["['a' 'b'", "['a']"], {}, r"^$"),
        (["['a' 'b ... 'c']"], {}, r"row 1: .*write a JSON list"),
        (["[1 0 ... 1]"], {}, r"NumPy shortened it"),
        (["[['a'], ['b']]"], {}, r"it holds another list"),
        (["['a']", "['b']"], {"other": ["a"]}, r"dev.csv row 1: .*expected a list such as"),
        ([{"a": 0.5, "b": 1}], {}, r"gives a label the value 0.5"),
        ([[None, "a"]], {}, r"row 1: got no label \(None\)"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(values, options, message):
    if message == "^$":  # not all cells are lists: these are names
        assert encode(values, **options)[1].names == ("['a' 'b'", "['a']")
        return
    with pytest.raises(DataError, match=message):
        encode(values, **options)


def test_what_the_refusals_say_can_be_done():
    assert encode(["law, order", "sport"], labels=["law, order", "sport"])[0] == [[1, 0], [0, 1]]
    assert encode(["law, order"], labels=["law", "order"])[0] == [[1, 1]]
    assert encode(["haze primary"], labels=["haze primary"])[0] == [[1]]
    assert encode([[0], [1]], labels=["a", "b"])[0] == [[1, 0], [0, 1]]
    assert encode([[0], [1]], task="classification")[0] == [0, 1]


def test_one_hot_rows_are_classes():
    rows = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    for values in (rows, np.array(rows, np.float32), through_csv(rows)):
        found, space = encode(values, task="classification")
        assert (found, space.count) == ([2, 0, 1], 3)
    for values in ([[1, 1, 0], [0, 0, 1]], np.array([[1, 1, 0], [0, 0, 1]])):
        with pytest.raises(DataError, match=r"row 1: got 2 classes in a row .*task=multilabel"):
            encode(values, task="classification")
    with pytest.raises(DataError, match="set task=multilabel for rows of several labels"):
        encode(through_csv(ROWS), task="classification")


def test_names_made_of_names_are_found():
    assert list(made_of(["law", "sport", "law|sport"])) == [("law|sport", ["law", "sport"])]
    assert list(made_of(["law", "law|sport"])) == []
