"""The sections on texts that models write: what they hold by default, and what they refuse."""

import pytest

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError

BASE = {
    "task": "language_model",
    "data": {"train": "text.jsonl", "max_length": 64},
    "teacher": {"model": "teacher"},
    "student": {"layers": 2},
}


def test_a_share_moves_as_any_schedule():
    assert check(BASE).on_policy is None
    found = check({**BASE, "on_policy": {"share": {"start": 0, "end": 1, "over": 0.5}}}).on_policy
    assert found is not None
    assert (found.share.start, found.share.end, found.share.shape) == (0, 1, "linear")
    assert check({**BASE, "on_policy": {"share": 1}}).on_policy.share == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_policy": {"share": 1.5}}, r"on_policy.share: got 1.5"),
        (
            {"on_policy": {"share": {"start": 0, "end": 2}}},
            r"on_policy.share.end: got 2, expected a share",
        ),
        ({"on_policy": {"prompt_tokens": 64}}, r"on_policy.prompt_tokens: got 64, expected fewer"),
        ({"on_policy": {"top_p": 0}}, r"on_policy.top_p: got 0"),
        ({"on_policy": {}, "task": "classification"}, r"on_policy: got task 'classification'"),
        ({"on_policy": {}, "cache": {"codec": "topk"}}, r"on_policy: got cache, too"),
        ({"on_policy": {}, "teacher": {"model": "t", "cache": "c"}}, r"got teacher.cache, too"),
        (
            {"on_policy": {"temperature": 0, "top_p": 0.9}},
            r"on_policy.top_p: has no effect at temp",
        ),
        ({"generate": {"temperature": 0, "top_k": 5}}, r"generate.top_k: has no effect at temp"),
        ({"generate": {"batch_size": 0}}, r"generate.batch_size: got 0"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(BASE | changes)
