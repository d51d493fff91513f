"""JSON as pandas, `datasets` and others write it."""

import json

import pandas
import pytest

from jaxdistill.data.reading.json_rows import read_json
from jaxdistill.errors import DataError

FRAME = pandas.DataFrame({"text": ["a b", "naïve\u2028film"], "label": [1, 0]})


def columns(text: str) -> dict:
    return {name: list(values) for name, values in read_json(text, "a").columns.items()}


@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("orient", ["records", "columns"])
def test_what_pandas_writes_comes_back(orient, indent):
    text = FRAME.to_json(orient=orient, indent=indent)
    assert columns(text) == FRAME.to_dict("list")


def test_lines_and_rows_below_a_key():
    assert columns(FRAME.to_json(orient="records", lines=True)) == FRAME.to_dict("list")
    rows = FRAME.to_dict("records")
    wrapped = json.dumps({"version": 1, "data": rows}, indent=2)
    assert columns(wrapped) == FRAME.to_dict("list")
    with pytest.raises(DataError, match=r"one JSON object with the keys \['a', 'b'\]"):
        columns(json.dumps({"a": rows, "b": rows}, indent=2))
    # One row of objects is a row.
    assert columns('{"text": {"en": "a"}}') == {"text": [{"en": "a"}]}


def test_halves_of_characters_are_replaced_wherever_they_stand():
    row = '{"text": "w1 \\ud83d w2", "messages": [{"content": "\\ud83d\\ude00 \\udc00"}]}'
    found = read_json(f'{{"text": "x"}}\n{row}\n', "a")
    assert found.columns["text"] == ["x", "w1 \ufffd w2"]
    assert found.columns["messages"][1] == [{"content": "😀 \ufffd"}]
    (remark,) = found.remarks
    assert "1 rows of a (the first at line 2)" in remark.message
    json.dumps(found.columns["text"]).encode()
    assert "".join(found.columns["text"]).encode()
    assert not read_json('{"text": "\\ud83d\\ude00"}\n', "a").remarks
