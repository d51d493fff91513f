"""A codec keeps what the objective reads, at its one temperature, or is refused by name."""

import pytest

from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError
from jaxdistill.setup.codec import check_objective, choose_codec
from jaxdistill.teachers.cache.codecs import Full, Hidden, Sampled, TopK

SOFT = {"loss": "forward_kl", "temperature": 3.0}


def configured(task="classification", terms=None, **sections):
    family = "bert" if task == "classification" else "gpt2"
    models = {"teacher": {"model": {"family": family}}, "student": {"model": {"family": family}}}
    terms = {"soft": SOFT} if terms is None else terms
    return check(
        {"task": task, "data": {"train": "unread"}, **models, "objective": terms, **sections}
    )


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ({"codec": "full", "dtype": "float32"}, Full("float32")),
        ({"codec": "topk", "k": 5}, TopK(5, temperature=3.0)),
        ({"codec": "sampled", "samples": 6, "seed": 7}, Sampled(6, temperature=3.0, seed=7)),
        ({}, Full()),
    ],
)
def test_a_codec_has_the_options_of_its_kind_and_the_temperature_of_the_objective(cache, expected):
    assert choose_codec(configured(cache=cache)) == expected


def test_a_language_model_is_sampled_where_nothing_is_said():
    config = configured("language_model", cache={})
    assert choose_codec(config) == Sampled(temperature=3.0)
    hidden = configured("language_model", cache={"codec": "hidden", "dtype": "bfloat16"})
    assert choose_codec(hidden) == Hidden("bfloat16")


@pytest.mark.parametrize("codec", [TopK(5, temperature=2.0), Sampled(5)])
def test_a_cache_at_another_temperature_is_refused(codec):
    message = rf"got a cache at temperature {codec.temperature}, expected 3.0"
    with pytest.raises(ConfigError, match=message):
        check_objective(configured(), codec)
    same = {"soft": {**SOFT, "temperature": codec.temperature}}
    check_objective(configured(terms=same), codec)
    check_objective(configured(), Full())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"a": {**SOFT, "temperature": {"start": 4, "end": 1}}}, "a.temperature: got a schedule"),
        ({"a": SOFT, "b": {"loss": "jsd"}}, r"terms at the temperatures \{'a': 3.0, 'b'"),
        ({"a": {"loss": "mse_logits"}}, "a.loss: got 'mse_logits' with the codec topk"),
        ({"a": {"loss": "hidden_mse", "layers": {0: 0}}}, "objective.a reads the teacher's layers"),
    ],
)
def test_terms_that_one_temperature_cannot_serve_are_refused(terms, message):
    with pytest.raises(ConfigError, match=message):
        choose_codec(configured(terms=terms, cache={"codec": "topk"}))


def test_a_codec_that_does_not_fit_the_task_is_refused():
    with pytest.raises(ConfigError, match="got 'hidden' for classification, expected one of full"):
        check_objective(configured(), Hidden())
    with pytest.raises(ConfigError, match="got 'full' for language_model, expected one of topk"):
        check_objective(configured("language_model"), Full())
    with pytest.raises(ConfigError, match="losses: got 'dense' with the codec hidden"):
        check_objective(configured("language_model", losses="dense"), Hidden())
