"""Vectors are finite in the type that they are held in, or named."""

import numpy as np
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.inputs.features import read_features
from jaxdistill.data.inputs.reading import Source
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError

SOURCE = Source(("features",), DataConfig(source="digits"))


def read(values):
    return read_features({"train": Table({"features": values}, "a.npz")}, SOURCE)


@pytest.mark.parametrize("value", [1e39, -1e300, np.inf, np.nan])
def test_what_float32_cannot_hold_is_named(value):
    values = np.zeros((3, 4))
    values[1, 2] = value
    with pytest.raises(DataError) as caught:
        read(values)
    assert str(caught.value).startswith(
        f"a.npz row 2: got {value} as number 3 of features, expected finite numbers of at most 3.4e"
    )


def test_what_it_can_hold_is_taken():
    values = np.array([[3.4e38, -3.4e38, 1e-300]])
    found = read(values).inputs["train"].arrays["features"]
    np.testing.assert_array_equal(found, values.astype(np.float32))
    with pytest.raises(DataError, match=r"a\.npz: got <U1 features, expected finite numbers"):
        read(np.array([["a"]]))
