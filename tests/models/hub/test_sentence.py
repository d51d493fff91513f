"""Encoders pooled as no classifier of transformers is, and folders of sentence-transformers."""

import json
import shutil

import numpy as np
import pytest
from models import parity
from models.folders import change_config
from models.sentences import encoded
from safetensors.numpy import load_file, save_file
from support.setups import save_tokenizer

from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.errors import DataError, ModelError
from jaxdistill.files.sentence_folder import encoder_folder, sentence_folder
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.teachers.identity import teacher_hash

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "Good", "film"]


def drawn(family, **options):
    """An encoder whose every parameter counts: at the usual start biases are zero."""
    model = build_model(parity.spec(family), seed=1, **options)
    random = np.random.default_rng(0)
    leaves = {
        path: random.normal(0, 0.2, leaf.shape) for path, leaf in flatten(model.params).items()
    }
    params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf.astype(np.float32)
    return type(model)(**{**model.__dict__, "params": params})


@pytest.mark.parametrize(
    ("family", "pooling", "head"),
    [
        ("bert", "mean", "classification"),
        ("bert", "first", "classification"),
        ("roberta", "mean", "classification"),
        ("xlm-roberta", "first", None),
        ("distilbert", "mean", "classification"),
        ("distilbert", "mean", None),
        ("mobilebert", "mean", "classification"),
    ],
)
def test_what_the_model_computes_is_what_its_folder_says(family, pooling, head, tmp_path):
    model = drawn(family, num_labels=3, pooling=pooling, head=head)
    save_model(tmp_path / "m", model)
    batch = parity.text_batch(model.config.pad_token_id)
    got = parity.run(model, batch, () if head else ("pooled",))
    got = np.asarray(got.logits if head else got.features["pooled"])
    expected = encoded(tmp_path / "m", batch)
    np.testing.assert_allclose(got, expected, atol=1e-5 * max(1.0, np.abs(expected).max()), rtol=0)
    again = load_model(tmp_path / "m", head=head)
    assert (again.options.pooling, again.initialized) == (pooling, ())
    for path, value in flatten(model.params).items():
        np.testing.assert_array_equal(value, flatten(again.params)[path], err_msg=path)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("family", ["roberta", "distilbert", "mobilebert"])
def test_pooling_that_transformers_has_is_written_for_transformers(family, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = drawn(family, num_labels=3, pooling="first")
    save_model(tmp_path / "m", model)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    batch = parity.text_batch(model.config.pad_token_id)
    with torch.no_grad():
        expected = parity.run_torch(theirs, batch).logits.numpy()
    for one in (model, load_model(tmp_path / "m"), load_model(tmp_path / "m", pooling="first")):
        got = np.asarray(parity.run(one, batch).logits)
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got, expected, atol=1e-5 * scale, rtol=0)


def test_transformers_does_not_open_it_as_a_classifier(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    save_model(tmp_path / "m", drawn("bert", labels=["a", "b"], pooling="mean"))
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert load_model(tmp_path / "m").labels == ("a", "b")


def test_a_folder_is_of_one_layout_after_the_other(tmp_path):
    mean = drawn("bert", labels=["a", "b"], pooling="mean")
    plain = drawn("bert", labels=["a", "b"])
    target = tmp_path / "m"
    for model in (plain, mean, plain):
        save_model(target, model)
        (target / "README.md").write_text("mine")
        again = load_model(target)
        assert again.options.pooling == model.options.pooling
        assert again.initialized == ()
    assert {path.name for path in target.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def sentence_encoder(folder, *, pooling, after=(), **settings):
    """A folder as sentence-transformers 2 wrote it, the encoder beside the list of modules."""
    save_model(folder, build_model(parity.spec("bert"), head=None))
    save_tokenizer(folder, WORDS)
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    kinds = ["Transformer", "Pooling", *after]
    modules = [
        {
            "idx": i,
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_the_settings_of_a_folder_are_read(tmp_path):
    old = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    settings = {"max_seq_length": 20, "do_lower_case": True}
    folder = sentence_encoder(tmp_path / "m", pooling=old, after=("Dense", "Normalize"), **settings)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    found = sentence_folder(folder)
    assert (found.encoder, found.pooling, found.others) == (folder, "mean", ("Normalize",))
    assert (found.max_length, found.lower_case, found.prompt) == (20, True, "query: ")
    assert found.dense == (folder / "2_Dense",)
    for mode, pooling in {"cls": "first", "max": "max", "mean": "mean"}.items():
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        assert sentence_folder(folder).pooling == pooling
    assert sentence_folder(tmp_path) is None


def test_the_bare_encoder_pools_as_its_folder_says_and_a_new_head_as_its_family_does(tmp_path):
    folder = sentence_encoder(tmp_path / "m", pooling={"pooling_mode": "mean"})
    assert load_model(folder, head=None).options.pooling == "mean"
    assert load_model(folder, num_labels=2).options.pooling == "default"
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "max"}))
    with pytest.raises(ModelError, match="pooling: got 'max'"):
        load_model(folder, head=None)
    assert load_model(folder, head=None, pooling="mean").options.pooling == "mean"


def test_an_encoder_in_a_folder_of_its_own_is_found(tmp_path):
    save_model(tmp_path / "plain", build_model(parity.spec("bert"), labels=["a", "b"]))
    save_model(tmp_path / "m", drawn("bert", labels=["a", "b"], pooling="mean"))
    assert encoder_folder(tmp_path / "m") == tmp_path / "m" / "0_Transformer"
    hashed = teacher_hash(tmp_path / "m", 0)
    assert hashed is not None
    shutil.copyfile(
        tmp_path / "plain" / "config.json", tmp_path / "m" / "2_Dense" / "unrelated.json"
    )
    assert teacher_hash(tmp_path / "m", 0) == hashed
    save_model(tmp_path / "other", drawn("bert", labels=["a", "b"], pooling="mean"))
    layer = load_file(tmp_path / "m" / "2_Dense" / "model.safetensors")
    save_file(
        {k: v + 1 for k, v in layer.items()}, tmp_path / "m" / "2_Dense" / "model.safetensors"
    )
    assert teacher_hash(tmp_path / "m", 0) != hashed


def test_damage_is_named(tmp_path):
    folder = sentence_encoder(tmp_path / "m", pooling={"pooling_mode": "mean"})
    save_model(tmp_path / "o", drawn("roberta", num_labels=2, pooling="mean"))
    listed = json.loads((tmp_path / "o" / "modules.json").read_text())
    (tmp_path / "o" / "modules.json").write_text(json.dumps(listed[:-1]))
    with pytest.raises(ModelError, match="got 1 Dense modules, expected the 2 layers of a roberta"):
        load_model(tmp_path / "o")
    (folder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(ModelError, match=r"modules\.json: got no list of modules"):
        load_model(folder)


def test_a_head_that_reads_otherwise_than_it_was_trained_to_is_said(tmp_path, caplog):
    save_model(tmp_path / "m", drawn("bert", num_labels=2, pooling="mean"))
    load_model(tmp_path / "m", pooling="first")
    assert "trained with pooling='mean', and reads 'first' here" in caplog.text


@pytest.mark.parametrize("lower", [False, True])
def test_lower_casing_by_the_folder_goes_into_its_tokenizer(lower, tmp_path):
    transformers = pytest.importorskip("transformers")
    pooling = {"pooling_mode": "mean"}
    folder = sentence_encoder(tmp_path / "m", pooling=pooling, do_lower_case=lower)
    ids = [WORDS.index("good" if lower else "Good"), WORDS.index("film")]
    assert load_tokenizer(folder)("Good film")["input_ids"] == ids
    for name, options in (("plain", {"num_labels": 2}), ("bare", {"head": None})):
        save_model(tmp_path / name, load_model(folder, **options))
        home = encoder_folder(tmp_path / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(home)
        assert tokenizer("Good film")["input_ids"] == ids
        assert tokenizer.pad_token == "[PAD]"
        assert load_tokenizer(tmp_path / name)("Good film")["input_ids"] == ids


def test_lower_casing_holds_for_a_tokenizer_that_builds_its_own_steps(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = sentence_encoder(tmp_path / "m", pooling={"pooling_mode": "mean"}, do_lower_case=True)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "é", "É"]))
    tokenizer = transformers.BertTokenizerFast(
        vocab=str(tmp_path / "vocab.txt"), do_lower_case=False
    )
    tokenizer.save_pretrained(folder)
    expected = load_tokenizer(folder)("Good É")["input_ids"]
    assert expected[1:3] == [WORDS.index("good"), len(WORDS)]
    save_model(tmp_path / "out", load_model(folder, num_labels=2))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("Good É")["input_ids"] == expected


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    save_model(tmp_path / "m", build_model(parity.spec("bert"), num_labels=2))
    for _ in range(2):
        with pytest.raises(DataError, match=r"it holds none of tokenizer\.json, vocab\.txt"):
            load_tokenizer(tmp_path / "m")
        (tmp_path / "m" / "tokenizer_config.json").write_text('{"do_lower_case": true}')


@pytest.mark.parametrize(
    ("family", "inputs"),
    [
        ("bert", ["input_ids", "token_type_ids", "attention_mask"]),
        ("distilbert", ["input_ids", "attention_mask"]),
        ("roberta", ["input_ids", "attention_mask"]),
    ],
)
def test_the_tokenizer_says_what_the_model_was_trained_on(family, inputs, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tmp_path / "words", WORDS)
    change = {"padding_side": "left", "model_max_length": 512, "truncation_side": "left"}
    path = tmp_path / "words" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    model = build_model(parity.spec(family), num_labels=2)
    for length, limit in ((7, 7), (None, {"roberta": 22}.get(family, 24))):
        save_model(tmp_path / "m", model, tokenizer_from=tmp_path / "words", max_length=length)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
        assert tokenizer.model_max_length == limit
        assert (tokenizer.padding_side, tokenizer.truncation_side) == ("right", "left")
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
        read = tokenizer(["good " * 30, "film"], truncation=True, padding=True, return_tensors="pt")
        assert list(read) == inputs
        assert theirs(**read).logits.shape == (2, 2)


def test_a_decoders_tokenizer_keeps_its_side_and_no_more_rows_than_positions(tmp_path):
    save_tokenizer(tmp_path / "words", WORDS)
    path = tmp_path / "words" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    model = build_model(parity.spec("gpt2"))
    save_model(tmp_path / "m", model, tokenizer_from=tmp_path / "words")
    said = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert (said["padding_side"], said["model_max_length"]) == ("left", 24)
    assert "model_input_names" not in said


def test_what_a_family_cannot_pool_is_refused():
    for family, fields in (("mlp", {"num_features": 4}), ("gpt2", parity.FIELDS["gpt2"])):
        with pytest.raises(ModelError, match=f"pooling: got 'mean' for {family}"):
            build_model({"family": family, **fields}, num_labels=2, pooling="mean")


def test_a_folder_of_before_is_still_read(tmp_path):
    save_model(tmp_path / "m", build_model(parity.spec("roberta"), num_labels=2))
    change_config(tmp_path / "m", jaxdistill_pooling="mean")
    assert load_model(tmp_path / "m").options.pooling == "mean"
