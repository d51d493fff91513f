"""The held-out rows: stratified, disjoint, drawn once."""

import numpy as np
import pytest

from jaxdistill.data.holdout import hold_out, subset
from jaxdistill.errors import DataError


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.33])
def test_classes_keep_their_shares(fraction):
    labels = np.repeat([0, 1, 2], [700, 250, 53])
    train, held = hold_out(labels, fraction, seed=3, source="x")
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert len(held) == round(fraction * len(labels))
    for label, count in enumerate([700, 250, 53]):
        assert abs((labels[held] == label).sum() - fraction * count) < 1


def test_scores_and_sets_of_labels_keep_their_shares():
    scores = np.random.default_rng(0).random(1000).astype(np.float32) ** 3
    _, held = hold_out(scores, 0.2, seed=0, source="x")
    for low, high in [(0, 0.1), (0.4, 0.5), (0.9, 1)]:
        inside = np.quantile(scores, [low, high])
        between = (scores[held] >= inside[0]) & (scores[held] <= inside[1])
        assert abs(between.sum() - 20) <= 1
    sets = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [100, 40, 10])]
    _, held = hold_out(sets, 0.3, seed=0, source="x")
    assert sets[held].sum(0).tolist() == [30, 12, 3]


def test_the_split_depends_on_the_seed_only():
    labels = np.arange(100) % 3
    first = hold_out(labels, 0.2, seed=1, source="x")
    np.testing.assert_array_equal(first[1], hold_out(labels, 0.2, seed=1, source="y")[1])
    assert set(first[1]) != set(hold_out(labels, 0.2, seed=2, source="x")[1])


def test_too_few_rows_are_an_error():
    with pytest.raises(DataError, match=r"x: got 2 rows, expected enough to hold out .*=0\.2"):
        hold_out(np.array([0, 1]), 0.2, seed=0, source="x")


def test_fewer_examples_are_a_part_of_more():
    small, large = subset(50, 5, seed=0), subset(50, 20, seed=0)
    assert set(small) < set(large)
    assert (np.diff(large) > 0).all()
    assert len(subset(50, 80, seed=0)) == 50
