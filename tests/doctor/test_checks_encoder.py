"""The doctor says what an encoder's folder asks for and how the student can be exported."""

import dataclasses
import json

import pytest
from support.findings import only
from support.setups import WORDS, encoder, save_tokenizer

from jaxdistill.doctor import checks_encoder
from jaxdistill.models.registry import build_model


def pooled(model, pooling):
    return dataclasses.replace(model, options=dataclasses.replace(model.options, pooling=pooling))


@pytest.mark.parametrize(
    ("family", "pooling", "level"),
    [
        ("bert", "default", "ok"),
        ("bert", "first", "warning"),
        ("bert", "mean", "warning"),
        ("roberta", "first", "ok"),
        ("roberta", "mean", "warning"),
        ("distilbert", "first", "ok"),
        ("mobilebert", "first", "ok"),
    ],
)
def test_a_student_that_transformers_cannot_open_is_said(healthy, family, pooling, level):
    student = pooled(encoder(1, family=family), pooling)
    message = only(checks_encoder.pooling(healthy(student=student)), level)
    assert ("sentence-transformers, whose encode() gives the logits" in message) == (
        level == "warning"
    )


def test_a_student_that_is_not_made_yet_counts_too(healthy):
    config = {"student": {"layers": [0], "pooling": "mean"}}
    assert "pooling 'mean'" in only(
        checks_encoder.pooling(healthy(config, student=None)), "warning"
    )


@pytest.mark.slow
def test_an_image_model_that_nothing_opens_is_stopped(healthy):
    sizes = {"image_size": 4, "patch_size": 2, "hidden_size": 4, "intermediate_size": 4}
    vit = {"family": "vit", **sizes, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = build_model(vit, num_labels=2)
    assert only(checks_encoder.pooling(healthy(student=model)), "ok")
    message = only(checks_encoder.pooling(healthy(student=pooled(model, "mean"))), "fatal")
    assert "set student.pooling=default" in message
    cnn = build_model({"family": "cnn", "image_size": 4, "num_channels": 1}, num_labels=2)
    assert not list(checks_encoder.pooling(healthy(student=cnn)))


def folder_of(path, *, settings=None, prompts=None, after=(), limit=None):
    save_tokenizer(path, WORDS)
    config = path / "tokenizer_config.json"
    if limit is not None:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": limit}))
    if settings is not None:
        kinds = ["Transformer", *after]
        modules = [{"path": f"{i}" if i else "", "type": f"x.{k}"} for i, k in enumerate(kinds)]
        (path / "modules.json").write_text(json.dumps(modules))
        (path / "sentence_bert_config.json").write_text(json.dumps(settings))
    if prompts is not None:
        (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return {"teacher": {"model": str(path)}, "student": {"layers": [0]}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"settings": {"max_seq_length": 8}}, "sentence_bert_config.json says at most 8 tokens"),
        ({"limit": 12}, "tokenizer_config.json says at most 12 tokens"),
        (
            {
                "settings": {},
                "prompts": {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            },
            "puts 'query: ' before every text",
        ),
        ({"settings": {}, "after": ("Dense", "Normalize")}, "goes on with Dense, Normalize behind"),
    ],
)
def test_what_a_folder_asks_for_and_does_not_get_is_said(healthy, tmp_path, files, message):
    setup = healthy(folder_of(tmp_path / "teacher", **files))
    fresh = dataclasses.replace(setup.teacher, initialized=("head/output/kernel",))
    setup = dataclasses.replace(setup, teacher=fresh)
    assert message in only(checks_encoder.folder_settings(setup), "warning")


@pytest.mark.parametrize(
    "files",
    [
        {"settings": {"max_seq_length": 16}, "limit": 8},
        {"limit": 16},
        {"limit": 1e30},
        {"settings": {}, "prompts": {"prompts": {"query": "query: "}, "default_prompt_name": None}},
        {"settings": {}, "after": ("Pooling",)},
    ],
)
def test_a_folder_that_gets_what_it_asks_for_is_ok(healthy, tmp_path, files):
    (tmp_path / "teacher" / "1").mkdir(parents=True)
    (tmp_path / "teacher" / "1" / "config.json").write_text('{"pooling_mode": "mean"}')
    setup = healthy(folder_of(tmp_path / "teacher", **files))
    assert only(checks_encoder.folder_settings(setup), "ok")
