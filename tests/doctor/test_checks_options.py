"""Settings that change nothing, and schedules that a run is too short for."""

import dataclasses

import pytest
from support.findings import only
from support.setups import encoder, text_dataset

from jaxdistill.doctor import checks_options

HARD = {"hard": {"loss": "cross_entropy"}}


@pytest.mark.parametrize(
    "terms",
    [HARD, {**HARD, "soft": {"loss": "forward_kl", "weight": 0}}],
)
def test_an_objective_that_learns_nothing_of_the_teacher(healthy, terms):
    message = only(checks_options.objective(healthy({"objective": terms})), "warning")
    assert "no term with a weight above 0 reads the teacher" in message


def test_an_objective_that_learns_of_the_teacher(healthy):
    terms = {**HARD, "soft": {"loss": "forward_kl", "weight": {"start": 0, "end": 1}}}
    message = only(checks_options.objective(healthy({"objective": terms})), "ok")
    assert message == "hard (cross_entropy), soft (forward_kl)"
    several = {"task": "multilabel", "objective": {"soft": {"loss": "forward_kl"}}}
    assert "bernoulli_kl" in only(checks_options.objective(healthy(several)), "warning")


@pytest.mark.parametrize(
    ("changes", "modality", "expected"),
    [
        ({"data": {"train": "x", "shift": 1}}, "text", "data.shift has no part in text data"),
        ({"data": {"source": "digits", "max_length": 32}}, "image", "data.max_length has no part"),
        ({"data": {"source": "digits", "layout": "pack"}}, "image", "data.layout has no part"),
        ({"data": {"train": "x", "image_size": 8}}, "features", "data.image_size has no part"),
        (
            {"data": {"train": "x", "validation": "y", "validation_fraction": 0.1}},
            "text",
            "data.validation_fraction holds nothing out",
        ),
        (
            {"cache": {}, "teacher": {"model": "t", "storage": "int8"}},
            "text",
            "teacher.storage keeps a live teacher small",
        ),
        (
            {"finetune": None, "student": {"layers": 1, "initialize_from": "finetuned"}},
            "text",
            "student.initialize_from: finetune is null",
        ),
    ],
)
def test_settings_without_effect_on_these_data(healthy, changes, modality, expected):
    dataset = dataclasses.replace(text_dataset(), modality=modality)
    setup = healthy(changes, dataset=dataset)
    assert expected in only(checks_options.options(setup), "warning")


def test_settings_at_their_defaults_are_not_told_of(healthy):
    dataset = dataclasses.replace(text_dataset(), modality="image")
    setup = healthy({"data": {"source": "digits", "max_length": 128}}, dataset=dataset)
    only(checks_options.options(setup), "ok")


def test_dropout_of_a_model_that_has_none(healthy):
    none = {"train": {"dropout": 0.1}}
    bare = dataclasses.make_dataclass("Bare", ["hidden_size"])(8)
    student = dataclasses.replace(encoder(1), config=bare, family="resnet")
    message = only(checks_options.options(healthy(none, student=student)), "warning")
    assert "train.dropout: got 0.1, but the student (resnet) has no dropout" in message
    only(checks_options.options(healthy(none)), "ok")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 64 examples in batches of 32 are 2 steps an epoch.
        ({"train": {"warmup": 100}}, "train.warmup takes 100 steps and train has 6"),
        ({"finetune": {"warmup": 7}}, "finetune.warmup takes 7 steps and finetune has 6"),
        (
            {"objective": {"a": {"loss": "jsd", "weight": {"start": 1, "end": 0, "over": 50}}}},
            "objective.a.weight takes 50 steps and train has 6",
        ),
        (
            {"objective": {"a": {"loss": "jsd", "temperature": {"start": 4, "end": 1, "over": 9}}}},
            "objective.a.temperature takes 9 steps",
        ),
        ({"train": {"steps": 5, "warmup": 6}}, "train.warmup takes 6 steps and train has 5"),
        ({"train": {"examples": 32, "warmup": 4}}, "train.warmup takes 4 steps and train has 3"),
        (
            {"train": {"early_stopping": 3, "evaluate_every": 2}},
            "train.early_stopping waits for 3 evaluations without a gain and there are 3",
        ),
        ({"train": {"evaluate_every": 9, "early_stopping": 1}}, "train.evaluate_every takes 9"),
    ],
)
def test_what_is_longer_than_the_run_is_said(healthy, changes, expected):
    found = list(checks_options.lengths(healthy(changes | {"parallel": {"data": 1}})))
    assert {finding.level for finding in found} == {"warning"}
    assert expected in "; ".join(finding.message for finding in found)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"warmup": 6}},
        {"train": {"warmup": 0.9}},
        {"train": {"evaluate_every": 1, "early_stopping": 2}},
        {"objective": {"a": {"loss": "jsd", "weight": {"start": 1, "end": 0, "over": 0.5}}}},
    ],
)
def test_what_fits_into_the_run_is_ok(healthy, changes):
    only(checks_options.lengths(healthy(changes | {"parallel": {"data": 1}})), "ok")
