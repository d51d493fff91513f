"""What a saved folder says of its task, and that transformers answers with the same numbers."""

import json

import numpy as np
import pytest
from models import parity
from models.folders import change_config, change_tensors
from support.setups import WORDS, save_tokenizer

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model

SINGLE, MULTI, REGRESSION = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
NAMES = ("sport", "law", "money")


def written(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def backbone(tmp_path):
    """Write a bare encoder whose config still speaks of the head that it had once."""

    def write(family: str, stale: str):
        folder = tmp_path / "backbone"
        old = {0: "NEGATIVE", 1: "POSITIVE"}
        parity.reference(family, None, folder, problem_type=stale, id2label=old)
        return folder

    return write


@pytest.mark.parametrize(
    ("family", "stale", "problem", "outputs"),
    [
        ("bert", SINGLE, MULTI, 3),
        ("bert", SINGLE, REGRESSION, 1),
        ("roberta", MULTI, SINGLE, 3),
        ("distilbert", SINGLE, REGRESSION, 3),
        ("mobilebert", REGRESSION, MULTI, 3),
    ],
)
def test_transformers_opens_what_was_made_of_a_backbone(
    backbone, tmp_path, family, stale, problem, outputs
):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    named = {"num_labels": 1} if outputs == 1 else {"labels": NAMES}
    model = load_model(backbone(family, stale), problem_type=problem, **named)
    save_model(tmp_path / "out", model)
    kind = transformers.AutoModelForSequenceClassification
    theirs, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert (theirs.config.problem_type, theirs.config.num_labels) == (problem, outputs)
    assert tuple(theirs.config.id2label.values()) == (NAMES if outputs == 3 else ("LABEL_0",))
    batch = parity.text_batch(1 if family == "roberta" else 0)
    with torch.no_grad():
        expected = theirs(**{k: torch.tensor(v).long() for k, v in batch.items()}).logits.numpy()
    ours = parity.compiled(model.apply)(model.params, batch).logits
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (REGRESSION, lambda logits: logits),
        (MULTI, lambda logits: 1 / (1 + np.exp(-logits))),
        (SINGLE, lambda logits: np.exp(logits) / np.exp(logits).sum()),
    ],
)
def test_a_pipeline_answers_as_the_task_does(tmp_path, problem, answer):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    spec = parity.spec("bert", vocab_size=len(WORDS), initializer_range=0.5)
    model = build_model(spec, labels=NAMES, problem_type=problem)
    save_tokenizer(tmp_path, WORDS)
    save_model(tmp_path / "out", model, tokenizer_from=tmp_path)
    open_pipeline = transformers.pipeline
    pipe = open_pipeline("text-classification", str(tmp_path / "out"), top_k=None, device="cpu")
    (answers,) = pipe(["a good film"])
    scores = {found["label"]: found["score"] for found in answers}
    ids = np.array([[WORDS.index(word) for word in ("a", "good", "film")]], np.int32)
    logits = np.asarray(model.apply(model.params, {"input_ids": ids}).logits[0], np.float64)
    np.testing.assert_allclose([scores[name] for name in NAMES], answer(logits), atol=2e-5)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_images_say_their_task_too(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    fields = {
        "vit": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        "resnet": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
    }[family]
    small = {"intermediate_size": 8, "image_size": 8, "patch_size": 4} if family == "vit" else {}
    model = build_model({"family": family, **fields, **small}, labels=NAMES, problem_type=MULTI)
    save_model(tmp_path / "out", model)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.problem_type, config.num_labels) == (MULTI, 3)


@pytest.mark.parametrize("head", [None, "masked_lm"])
def test_a_model_without_such_a_head_says_nothing_of_one(backbone, tmp_path, head):
    folder = backbone("bert", MULTI)
    change_config(folder, num_labels=2, auto_map={"AutoModel": "code.Model"}, max_tokens=7)
    save_model(tmp_path / "out", load_model(folder, head=head))
    said = written(tmp_path / "out")
    former = {"problem_type", "num_labels", "id2label", "label2id", "auto_map"}
    assert not former & said.keys()
    assert said["max_tokens"] == 7


def test_a_config_is_believed_only_where_its_head_is_kept(folder):
    change_config(folder, problem_type=MULTI)
    assert load_model(folder).options.problem_type == MULTI
    fresh = load_model(folder, labels=NAMES, fresh_head=True)
    assert fresh.options.problem_type is None
    change_tensors(
        folder, lambda tensors: [tensors.pop(f"classifier.{k}") for k in ("weight", "bias")]
    )
    assert load_model(folder, labels=NAMES).options.problem_type is None


def test_one_output_is_no_choice_between_classes():
    with pytest.raises(ModelError, match=r"num_labels: got 1 for single_label.*'regression'"):
        build_model(parity.spec("bert"), num_labels=1, problem_type=SINGLE)
