"""Models that do not go together are refused by name, before anything is trained."""

import json

import numpy as np
import pytest
from models import parity
from models.folders import change_config
from support.findings import only
from support.setups import text_dataset

from jaxdistill.config.load import check
from jaxdistill.doctor import checks_models
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.models.hub.described import describe
from jaxdistill.models.registry import build_model, save_model

BERT, VIT, LLAMA, T5 = ({"family": name} for name in ("bert", "vit", "llama", "t5"))
MULTI = "multi_label_classification"


def config(task, teacher, student, **fields):
    return check(
        {
            "task": task,
            "data": {"train": "train.tsv"},
            "teacher": {"model": teacher},
            "student": {"model": student},
            **fields,
        }
    )


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A function that gives a folder of a tiny BERT whose head has these outputs; made once."""
    made = {}

    def folder(*labels: str, **changes):
        key = (labels, json.dumps(changes))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("heads") / "model"
            save_model(made[key], build_model(parity.spec("bert"), labels=labels))
            change_config(made[key], **changes)
        return str(made[key])

    return folder


@pytest.mark.parametrize(
    ("task", "teacher", "student", "message"),
    [
        ("classification", LLAMA, BERT, "teacher.model.*'llama', which has no classification"),
        ("multilabel", BERT, {"family": "gpt2"}, "student.model.*'gpt2'.*task=language_model"),
        ("regression", T5, BERT, "teacher.model.*'t5', which has no classification head.*bert"),
        ("language_model", BERT, LLAMA, "teacher.model.*'bert', no decoder.*gpt2, llama"),
        ("language_model", LLAMA, T5, "student.model.*'t5', an encoder-decoder.*gpt2"),
        ("language_model", VIT, LLAMA, "teacher.model.*'vit', no decoder"),
        ("classification", VIT, BERT, "teacher.model .*reads image and student.model .*reads text"),
        ("classification", BERT, {"family": "cnn"}, "reads text and student.*reads image"),
        ("classification", BERT, {"family": "mlp"}, "reads text and student.*reads features"),
    ],
)
def test_models_that_cannot_do_it(task, teacher, student, message):
    with pytest.raises(ConfigError, match=message):
        checks_models.refuse_unfit(config(task, teacher, student))


@pytest.mark.parametrize(
    ("task", "teacher", "student"),
    [
        ("classification", BERT, {"family": "distilbert"}),
        ("language_model", {"family": "gpt2"}, {"family": "qwen3"}),
        ("classification", {"family": "resnet"}, {"family": "mlp"}),
        ("multilabel", VIT, {"family": "cnn"}),
    ],
)
def test_models_that_can(task, teacher, student):
    checks_models.refuse_unfit(config(task, teacher, student))


def test_the_family_of_a_folder_counts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for teacher, student in ((str(tmp_path), BERT), (BERT, str(tmp_path))):
        with pytest.raises(ConfigError, match=f"{str(tmp_path)!r} of the family 'gpt2'"):
            checks_models.refuse_unfit(config("classification", teacher, student))
    checks_models.refuse_unfit(config("language_model", str(tmp_path), LLAMA))


def test_an_adapter_is_no_model(tmp_path):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "meta/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match=r"got an adapter .* of the model 'meta/base'.*merge_and"):
        checks_models.refuse_unfit(config("language_model", str(tmp_path), LLAMA))
    # transformers would add the adapter to the weights beside it, which say nothing of that.
    save_model(tmp_path, build_model(parity.spec("bert"), num_labels=2))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"remove adapter_config.json to take model.safetensors"):
        describe(tmp_path)


def test_a_teacher_behind_a_cache_may_be_somewhere_else(tmp_path):
    cached = config("classification", str(tmp_path), BERT)
    cached = cached.model_copy(
        update={"teacher": cached.teacher.model_copy(update={"cache": "cache"})}
    )
    checks_models.refuse_unfit(cached)
    with pytest.raises(ModelError, match="expected a Hugging Face model folder"):
        checks_models.refuse_unfit(config("classification", str(tmp_path), BERT))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "id2label": {"0": "no", "1": "yes"}})
    )
    assert checks_models.head_labels(cached, "teacher") == ("no", "yes")


def test_names_count_only_with_the_head_that_they_name(heads, tmp_path):
    assert describe(heads("sad", "happy")).names == ("sad", "happy")
    assert describe(heads("LABEL_0", "LABEL_1")).names is None
    bare = build_model(parity.spec("bert"), head=None)
    save_model(tmp_path / "bare", bare)
    change_config(
        tmp_path / "bare", id2label={"0": "NEGATIVE", "1": "POSITIVE"}, problem_type=MULTI
    )
    found = describe(tmp_path / "bare")
    assert (found.outputs, found.names, found.problem_type) == (None, None, None)


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (("a", "b", "c"), {}, r"a head of 3 outputs \(a, b, c\), expected one for the data's 2"),
        (("LABEL_0",), {}, "a head of 1 outputs, expected one for the data's 2 labels"),
        (("sad", "happy"), {}, r"\(sad, happy\), expected one for the data's 2 labels \(negative"),
        (
            ("LABEL_0", "LABEL_1"),
            {"architectures": ["BertForTokenClassification"]},
            "the head of a BertForTokenClassification, expected one for a whole text",
        ),
        (("LABEL_0",), {"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice"),
    ],
)
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_heads_that_answer_something_else(heads, labels, changes, message, side):
    folder = heads(*labels, **changes)
    models = {"teacher": BERT, "student": BERT, side: folder}
    wrong = config("classification", **models)
    with pytest.raises(ConfigError, match=f"{side}.model.*{message}.*{side}.fresh_head=true"):
        checks_models.refuse_unfit_heads(wrong, text_dataset())
    section = getattr(wrong, side).model_copy(update={"fresh_head": True})
    mended = wrong.model_copy(update={side: section})
    checks_models.refuse_unfit_heads(mended, text_dataset())
    assert checks_models.named_head(mended) is None


def test_heads_that_go_with_the_data(heads):
    for labels in (("negative", "positive"), ("positive", "negative"), ("LABEL_0", "LABEL_1")):
        config_ = config("classification", heads(*labels), BERT)
        checks_models.refuse_unfit_heads(config_, text_dataset())


def test_a_frozen_teacher_is_not_told_to_draw_a_head_alone(heads):
    frozen = config("classification", heads("a", "b", "c"), BERT, finetune=None)
    with pytest.raises(ConfigError, match=r"drop `finetune: null` and set teacher\.fresh"):
        checks_models.refuse_unfit_heads(frozen, text_dataset())


def test_problem_types_that_contradict_the_task(heads, healthy):
    labels = ("negative", "positive")

    def found(problem, finetune=None, side="teacher", **fields):
        folder = heads(*labels, problem_type=problem)
        values = {side: {"model": folder}, **fields}
        return checks_models.problem_type(healthy({**values, "finetune": finetune}))

    message = only(found(MULTI), "fatal")
    assert f"says problem_type={MULTI!r}, the task 'classification' is 'single_label" in message
    assert "teacher.fresh_head=true" in message
    assert "correct that file" in message
    only(found("regression", task="multilabel"), "fatal")
    only(found(MULTI, task="multilabel"), "ok")
    only(found(None), "ok")
    # What is trained may start from such a head.
    assert "teacher.fresh_head=true" in only(found(MULTI, {"epochs": 1}), "warning")
    assert "student.fresh_head=true" in only(found("regression", side="student"), "warning")
    anew = {"model": heads(*labels, problem_type=MULTI), "fresh_head": True}
    only(checks_models.problem_type(healthy({"teacher": anew})), "ok")


def test_readers(heads):
    both = checks_models.readers(config("classification", {"family": "vit"}, {"family": "mlp"}))
    assert set(both.values()) == {"image", "features"}
    assert np.all([name.endswith(".model a mapping") for name in both])
