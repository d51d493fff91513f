"""Every format round trips, with its quirks; every damaged file is one line of explanation."""

import gzip
import io
import json
import logging
import os
import struct
import zipfile

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from jaxdistill.data.reading.formats import format_of, read_file
from jaxdistill.errors import DataError

ROWS = {"sentence": ['he said "no', "naïve\u2028film"], "label": ["1", "0"]}


def columns(path, kind, **options) -> dict:
    table = read_file(path, kind, **options)
    return {name: list(values) for name, values in table.columns.items()}


def parquet(table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def arrow(table, writer) -> bytes:
    buffer = io.BytesIO()
    with writer(buffer, table.schema) as file:
        file.write_table(table)
    return buffer.getvalue()


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


TABLE = pyarrow.table(ROWS)
CONTENTS = {
    "a.tsv": 'sentence\tlabel\nhe said "no\t1\nnaïve\u2028film\t0\n'.encode(),
    "crlf.tsv": 'sentence\tlabel\r\nhe said "no\t1\r\nnaïve\u2028film\t0\r\n'.encode(),
    "bom.tsv": 'sentence\tlabel\nhe said "no\t1\nnaïve\u2028film\t0'.encode("utf-8-sig"),
    "a.csv": 'sentence,label\n"he said ""no",1\nnaïve\u2028film,0\n'.encode(),
    "a.jsonl": "\n".join(
        json.dumps({"sentence": text, "label": label})
        for text, label in zip(*ROWS.values(), strict=True)
    ).encode(),
    "a.json": json.dumps(
        [{"sentence": t, "label": y} for t, y in zip(*ROWS.values(), strict=True)], indent=1
    ).encode(),
    "a.parquet": parquet(TABLE),
    "file.arrow": arrow(TABLE, pyarrow.ipc.new_file),
    "stream.arrow": arrow(TABLE, pyarrow.ipc.new_stream),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_tables_round_trip(tmp_path, name, packed):
    content = CONTENTS[name]
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    assert columns(path, format_of(path)) == ROWS


def test_quoted_cells_may_span_lines_and_keep_their_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo",1\nthree,0\n')
    table = read_file(path, "csv")
    assert list(table.columns["text"]) == ["one\ntwo", "three"]
    assert [table.at(row) for row in (0, 1)] == [f"{path} line 2", f"{path} line 4"]


def test_label_text_is_a_label_a_space_and_the_rest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("NUM:dist How far is it ?\n\n0 good\tfilm \n")
    table = read_file(path, "label_text")
    assert list(table.columns["label"]) == ["NUM:dist", "0"]
    assert list(table.columns["text"]) == ["How far is it ?", "good\tfilm "]
    assert table.at(1).endswith("line 3")


def test_what_is_not_utf8_is_read_as_windows_writes_it_and_said(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_bytes("0 crème “brûlée”\n".encode("cp1252"))
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert columns(path, "label_text")["text"] == ["crème “brûlée”"]
    assert "not UTF-8 at byte 4, read as cp1252; if that is wrong set data.encoding" in caplog.text


def test_arrays_are_taken_by_their_part(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(x_train=np.ones((3, 2, 2)), y_train=[1, 0, 1], x_test=[[[4]]], y_test=[7]))
    assert columns(path, "npz")["label"] == [1, 0, 1]
    assert columns(path, "npz", part="test")["label"] == [7]
    assert columns(path, "npz", part="validation")["image"] == [[[4]]]
    path.write_bytes(npz(x=np.ones((2, 5)), y=np.zeros((2, 1))))
    assert list(columns(path, "npz")) == ["features", "label"]
    assert columns(path, "npz")["label"] == [0, 0]


def test_label_names_in_a_schema_are_found(tmp_path):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(pyarrow.table({"label": [1, 0]}).replace_schema_metadata(metadata)))
    assert read_file(path, "parquet").names == {"label": ("no", "yes")}


def pickled() -> bytes:
    return npz(x=np.array([{}, {}], dtype=object), y=[0, 1])


def offset_beyond_the_end() -> bytes:
    """An Arrow file whose second text goes on far behind its buffer."""
    whole = arrow(pyarrow.table({"text": ["good", "bad", "fine"]}), pyarrow.ipc.new_file)
    offsets = struct.pack("<4i", 0, 4, 7, 11)
    assert whole.count(offsets) == 1
    return whole.replace(offsets, struct.pack("<4i", 0, 4, 2**30, 11))


def claims_too_much() -> bytes:
    """An array of two bytes that says it has 16 PiB."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in ("x", "y"):
            array = io.BytesIO()
            shape = "(9007199254740992, 1), }"
            header = {"descr": "<u2", "fortran_order": False, "shape": (1, 1)}
            np.lib.format.write_array_header_1_0(array, header)
            content = array.getvalue().replace(
                b"(1, 1), }" + b" " * (len(shape) - 9), shape.encode()
            )
            assert shape.encode() in content
            archive.writestr(f"{name}.npy", content + b"12")
    return whole.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", r"a\.tsv: got no rows, expected at least one"),
        ("a.tsv", b"sentence\tlabel\n", r"a\.tsv: got no rows"),
        ("a.tsv", b"sentence\tlabel\ngood\n", r"line 2: got 1 cells, expected 2 as in the header"),
        ("a.tsv", b"label\tlabel\n1\t1\n", r"got the column 'label' twice"),
        ("a.csv", b'a,b\n"x,1\n', r"line 2: not valid CSV: unexpected end of data"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"line 3: got 3 cells, expected 2"),
        ("a.csv", b"", r"got no rows"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"line 2: not valid JSON"),
        ("a.jsonl", b"3\n", r"line 1: got int, expected a JSON object"),
        ("a.json", b"[3]", r"got a list of other things"),
        ("a.json", b"[", r"line 1: not valid JSON"),
        ("a.json", b"[]", r"got no rows"),
        ("a.txt", b"0 good\nbad\n", r"line 2: got 'bad', expected 'label text'"),
        ("a.txt", b"\n", r"got no rows"),
        ("a.parquet", b"nonsense", r"not a Parquet file"),
        ("a.parquet", parquet(pyarrow.table({"a": pyarrow.array([], "int64")})), r"got no rows"),
        ("a.arrow", b"nonsense", r"not an Arrow file"),
        ("a.arrow", offset_beyond_the_end(), r"a damaged Arrow file: .*out of bounds"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"1" * 5000 + b"}", r"line 2: not valid JSON: Exceeds"),
        ("a.jsonl", b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", r"inside of too many others"),
        ("a.json", b'[{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}]", r"inside of too many others"),
        ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", r"line 1: not valid JSON: Exceeds the limit"),
        ("a.npz", npz(x=np.ones((3, 2)), y=1), r"y of shape \(\), expected as many rows in both"),
        ("a.npz", claims_too_much(), r"needs more memory than there is \(Unable"),
        ("a.npz", b"nonsense", r"not a NPZ file of plain arrays"),
        ("a.npz", pickled(), r"not a NPZ file of plain arrays"),
        ("a.npz", npz(z=[1]), r"got the arrays \['z'\], expected x_train and y_train or x and y"),
        ("a.npz", npz(x=np.ones((3, 2)), y=[1]), r"got x of shape \(3, 2\) and y of shape \(1,\)"),
        (
            "a.tsv.gz",
            gzip.compress(b"a\tb\n" * 99, mtime=0)[:20],
            r"cannot be read: .*; is the file whole",
        ),
        ("a.tsv.gz", b"a\tb\n1\t2\n", r"cannot be read: Not a gzipped file"),
    ],
)
def test_damaged_files_are_explained_in_one_line(write, tmp_path, name, content, message):
    write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_file(tmp_path / name, format_of(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "features",
    [
        None,
        [1],
        "x",
        {"label": {"_type": "ClassLabel"}},
        {"label": {"_type": "ClassLabel", "names": None}},
        {"label": {"_type": "ClassLabel", "names": [1, 2]}},
        {"label": {"_type": "ClassLabel", "names": {"a": 1}}},
        {"label": 3},
    ],
)
def test_a_schema_of_another_kind_names_no_labels(tmp_path, features):
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(pyarrow.table({"label": [1, 0]}).replace_schema_metadata(metadata)))
    assert read_file(path, "parquet").names == {}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv: got a pipe or a device, expected a file"):
        read_file(tmp_path / "a.csv", "csv")


def test_a_missing_file_names_what_is_there(tmp_path, write):
    write("train.tsv", "a")
    with pytest.raises(DataError, match=r"dev\.tsv: no such file; .*folder holds train\.tsv\)"):
        read_file(tmp_path / "dev.tsv", "tsv")
    with pytest.raises(DataError, match=r"the folder .*none is not there either"):
        read_file(tmp_path / "none" / "dev.tsv", "tsv")
    with pytest.raises(DataError, match="got a folder, expected a file"):
        read_file(tmp_path, "tsv")


def test_an_ending_that_says_nothing_asks_for_the_format(tmp_path):
    with pytest.raises(DataError, match=r"data\.format: cannot be told from 'TREC\.all'.*set data"):
        format_of(tmp_path / "TREC.all")


def test_the_index_of_pandas_is_no_column(tmp_path):
    import pandas

    frame = pandas.DataFrame({"text": ["b", "c"], "label": [1, 1]}, index=[7, 3])
    frame.to_parquet(tmp_path / "a.parquet")
    assert "__index_level_0__" in pyarrow.parquet.read_schema(tmp_path / "a.parquet").names
    assert columns(tmp_path / "a.parquet", "parquet") == {"text": ["b", "c"], "label": [1, 1]}
    frame.set_index("text").to_parquet(tmp_path / "b.parquet")
    assert set(columns(tmp_path / "b.parquet", "parquet")) == {"text", "label"}


def test_what_is_no_text_in_a_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    broken = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    path.write_bytes(parquet(pyarrow.table({"text": broken})))
    with pytest.raises(DataError, match=r"a\.parquet: column 'text' is not text in UTF-8"):
        read_file(path, "parquet")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "label_text"])
def test_names_are_for_files_with_a_header_only(tmp_path, kind):
    path = tmp_path / "a"
    path.write_text("x")
    with pytest.raises(DataError, match=r"data\.columns: .* is read as .*drop data\.columns"):
        read_file(path, kind, names=["text"])
