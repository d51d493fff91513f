"""Taking some examples of a split keeps each of them whole."""

import numpy as np
import pytest

from jaxdistill.data.inputs.images import Images
from jaxdistill.data.inputs.tokens import Tokens
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.split import Split, make_split, take_examples


@pytest.fixture
def split() -> Split:
    """Three texts of 2, 3 and 1 tokens; the tens of a token are its example."""
    tokens = Tokens(
        tokens=np.array([0, 1, 10, 11, 12, 20], np.int32),
        token_types=np.array([0, 1, 0, 0, 1, 0], np.uint8),
        offsets=np.array([0, 2, 5, 6]),
        texts=(["a b", "c d e", "f"],),
    )
    return make_split(np.array([0, 1, 2], np.int32), tokens)


def test_texts(split):
    taken = take_examples(split, np.array([2, 1]))
    np.testing.assert_array_equal(taken.inputs.tokens, [20, 10, 11, 12])
    np.testing.assert_array_equal(taken.inputs.token_types, [0, 0, 0, 1])
    np.testing.assert_array_equal(taken.inputs.offsets, [0, 1, 4])
    np.testing.assert_array_equal(taken.lengths, [1, 3])
    np.testing.assert_array_equal(taken.labels, [2, 1])
    assert taken.text(0) == ("f",)
    assert taken.fingerprint != split.fingerprint


def test_images(split):
    images = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1)
    whole = make_split(split.labels, Images(images, Preprocessing()))
    taken = take_examples(whole, np.array([1, 0]))
    np.testing.assert_array_equal(taken.inputs.images, images[[1, 0]])
