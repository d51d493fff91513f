"""Text that holds a list is read whoever wrote it."""

import json

import numpy as np

from jaxdistill.data.label_lists import read_list


def test_lists_as_they_are_printed_are_read():
    for row in (["a", "it's", 'x"y', "é\n", "1"], [1, 2], [1.5, -2.0], [True, False]):
        assert read_list(repr(row)) == read_list(json.dumps(row)) == row
        assert read_list(repr(np.array(row))) == row
        assert read_list(str(np.array(row))) == row
    assert read_list("array([], dtype=object)") == read_list("set()") == read_list("()") == []
