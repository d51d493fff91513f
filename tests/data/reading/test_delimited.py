"""Separated cells: what pandas writes comes back, and the bare quotes of GLUE stay."""

import csv
import gzip
import io
import random

import pandas
import pytest

from jaxdistill.data.reading.delimited import header_doubt, read_csv, read_tsv
from jaxdistill.errors import DataError

AWKWARD = ["a", 'he said "no"', '"quoted"', "tab\there", "two\nlines", '"', "", "a,b;c|d", "'"]


def table(rows=400, seed=0) -> pandas.DataFrame:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(AWKWARD, k=3)).strip("\n") for _ in range(rows)]
    return pandas.DataFrame({"text": texts, "label": [str(i % 2) for i in range(rows)]})


def columns(found) -> dict:
    return {name: list(values) for name, values in found.columns.items()}


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_pandas_writes_comes_back(delimiter, quoting, end):
    frame = table()
    text = frame.to_csv(index=False, sep=delimiter, quoting=quoting, lineterminator=end)
    read = read_tsv if delimiter == "\t" else read_csv
    assert columns(read(text, "a")) == frame.to_dict("list")
    # A file of tabs that is called CSV is one of tabs.
    assert columns(read_csv(text, "a")) == frame.to_dict("list")


def test_quotes_that_nobody_doubled_are_text():
    rows = ['"The Persians" was written.', '"All ""of"" it."', 'he said "no', '""', "it"]
    for chosen in (rows, rows[1:3]):
        lines = [f"{row}\t{i % 2}" for i, row in enumerate(chosen)]
        found = read_tsv("\n".join(["sentence\tlabel", *lines]), "a")
        assert list(found.columns["sentence"]) == chosen


def test_a_cell_in_quotes_without_need_keeps_them():
    # Where quotes enclose cells, only those that need it have them.
    text = 'sentence\tlabel\n"All of it."\t1\nno quotes\t0\n'
    assert list(read_tsv(text, "a").columns["sentence"]) == ['"All of it."', "no quotes"]


def test_quotes_open_at_the_ends_of_two_lines_do_not_join_them():
    text = 'text\tlabel\n"I came\t1\nI saw"\t0\nhe won\t0\n'
    assert list(read_tsv(text, "a").columns["text"]) == ['"I came', 'I saw"', "he won"]


@pytest.mark.parametrize("name", ["glue_rte/train.tsv.gz", "glue_stsb/train.tsv.gz"])
def test_quotes_of_glue_stay(data_folder, name):
    text = gzip.decompress((data_folder / name).read_bytes()).decode()
    expected = pandas.read_csv(
        io.StringIO(text), sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False
    )
    assert columns(read_tsv(text, "a")) == expected.to_dict("list")
    assert any('"' in cell for cell in expected["sentence1"])
    written = expected.to_csv(index=False, sep="\t")
    assert columns(read_tsv(written, "a")) == expected.to_dict("list")


def test_a_cell_may_be_as_long_as_it_likes():
    limit = csv.field_size_limit()
    long = "w1 " * 60_000
    assert list(read_csv(f"text,label\n{long},1\n", "a").columns["text"]) == [long]
    assert csv.field_size_limit() == limit


def test_delimiters_at_the_end_and_empty_lines_are_nothing():
    expected = {"text": ["a b", "c"], "label": ["0", "1"]}
    assert columns(read_csv("text,label,\n\na b,0,\nc,1,\n\n", "a")) == expected
    assert columns(read_csv("text,label\na b,0,\n  \nc,1,\n", "a")) == expected
    assert columns(read_tsv("text\tlabel\t\na b\t0\t\n\t\t\nc\t1\t\n", "a")) == expected


def test_the_index_of_pandas_gets_its_name_and_a_missing_cell_its_line():
    frame = table(5)
    found = read_csv(frame.to_csv(), "a")
    assert list(found.columns) == ["Unnamed: 0", "text", "label"]
    with pytest.raises(DataError, match=r"a line 3: got 1 cells, expected 2"):
        read_csv("text,label\nx,1\ny\n", "a")
    with pytest.raises(DataError, match=r'a line 2: not valid CSV: .*written twice \(""\)'):
        read_csv('text,label\n"he said \\"x\\"",1\n', "a")


COLA = "".join(
    f"gj04\t{i % 2}\t{'*' * (i % 2)}\tOur friends won't buy it, {i}.\n" for i in range(9)
)


def test_names_are_given_to_files_without_a_header():
    found = read_tsv(COLA, "a", ["source", "label", "mark", "text"])
    assert list(found.columns) == ["source", "label", "mark", "text"]
    assert len(found) == 9
    assert found.at(0) == "a line 1"
    assert found.columns["text"][0] == "Our friends won't buy it, 0."
    assert not found.header_doubt
    with pytest.raises(DataError, match=r"data\.columns: got 3 names .*expected 4 for the cells"):
        read_tsv(COLA, "a", ["source", "label", "text"])
    with pytest.raises(DataError, match=r"data\.columns: a line 1 holds these names already"):
        read_csv("Text,Label\nx,1\n", "a", ["text", "label"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (COLA, "'gj04' is also a cell of its column"),
        ("3\tWall St.\n4\tCarlyle\n", "'3' is a number, as all of its column are"),
        ("One of the other reviewers has said\tx1\nA film\tx2\n", "is a text of 35 characters"),
        ("pos\tgood\nneg\tbad\npos\tfine\n", "'pos' is also a cell"),
    ],
)
def test_a_first_row_that_looks_like_data_is_doubted(text, why):
    doubt = read_tsv(text, "a").header_doubt
    assert why in doubt
    assert "data.columns=[name1, name2" in doubt


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["Quality", "#1 ID", "#2 ID", "#1 String"], ["1", "2", "3", "text"]),
        (["words", "tag"], ["good film", "pos"]),
        (["", "0", "1"], ["0", "a", "b"]),
        (["2019", "2020"], ["a", "b"]),
        (["text", "label"], ["text", "label"]),
    ],
)
def test_usual_headers_are_not_doubted(header, rows):
    assert not header_doubt(header, [[row] for row in rows])


def test_a_name_that_stands_twice_in_a_first_row_of_data_asks_for_names():
    with pytest.raises(DataError, match=r"the column '1' twice.*looks like data.*data\.columns"):
        read_csv("1,1,good\n0,0,bad\n", "a")


def test_a_header_of_very_many_columns_is_looked_through_once():
    class Name(str):
        __slots__ = ()
        asked = 0

        def __eq__(self, other):
            Name.asked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(f"c{number}") for number in range(300)]
    read_csv(",".join("1" * 300), "x", names)
    assert Name.asked < 30 * 300
