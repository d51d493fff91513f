"""From a configuration to encoders and the tokenizer that reads their texts."""

import dataclasses
import json

import numpy as np
import pytest
from models import parity
from models.folders import change_config
from support.setups import WORDS, save_tokenizer

from jaxdistill.config.load import check
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.distill import models as build
from jaxdistill.distill.workspace import Workspace
from jaxdistill.doctor import checks_text
from jaxdistill.doctor.findings import Examined
from jaxdistill.errors import DataError
from jaxdistill.models.registry import build_model, load_model, save_model

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
VOCABULARY = {"vocabulary": 270}


@pytest.fixture
def texts(tmp_path):
    """Texts of two labels, as a file."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(60):
        words = random.choice(["einen", "Film", "über", "nothing"], 3 + i % 5)
        rows.append({"text": " ".join(words), "label": ["bad", "good"][i % 2]})
    return write(tmp_path / "train.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config(train, *, teacher, student=None, task="classification", **data):
    return check(
        {
            "task": task,
            "data": {"train": train, "max_length": 16, **data},
            "teacher": teacher if "model" in teacher else {"model": teacher},
            "student": student or {"model": teacher},
        }
    )


def opened(folder, texts, pairs=None):
    """Logits of an exported folder by transformers, whose tokenizer pads and cuts by itself."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(**read).logits.numpy(), tokenizer


def logits_of(model, dataset, settings):
    """Logits of the validation split as a run computes them, in its order."""
    found = np.zeros((len(dataset.validation), dataset.num_labels), np.float32)
    source = eval_batches(dataset.validation, batch_size=12, config=settings.data)
    for number in range(source.steps_per_epoch):
        batch = {k: v for k, v in source[number].items() if k != "labels"}
        rows = source.info(number).index
        found[rows[rows >= 0]] = np.asarray(parity.run(model, batch).logits)[rows >= 0]
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("layout", ["bucket", "pack"])
def test_an_encoder_of_a_mapping_reads_text_and_its_export_says_the_same(
    family, layout, texts, tmp_path
):
    mapping = {"family": family, **SMALL, "initializer_range": 0.5}
    settings = config(texts, teacher=mapping, tokenizer=VOCABULARY, layout=layout, max_length=12)
    dataset = build.load_data(settings, tmp_path / "work")
    assert dataset.tokenizer.parent == tmp_path / "work"
    model = build.load_teacher(settings, dataset, training=True, seed=3)
    assert (model.config.vocab_size, model.config.pad_token_id) == (
        270,
        dataset.train.inputs.pad_id,
    )
    assert model.config.max_position_embeddings == (13 if family == "roberta" else 12)
    assert dataset.notes["validation.cut"] > 0
    save_model(tmp_path / "m", model, tokenizer_from=dataset.tokenizer, max_length=12)
    expected, tokenizer = opened(tmp_path / "m", dataset.validation.texts[0])
    np.testing.assert_allclose(logits_of(model, dataset, settings), expected, atol=1e-4, rtol=0)
    assert tokenizer.model_max_length == 12
    text = "Ünknown 字 words"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    again = build.load_data(settings, tmp_path / "work")
    assert again.tokenizer == dataset.tokenizer


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_pairs_get_token_types_that_the_model_knows(family, tmp_path):
    rows = [
        {"sentence1": f"one text {i}", "sentence2": f"another {i % 7}", "label": i / 40}
        for i in range(40)
    ]
    mapping = {"family": family, **SMALL, "initializer_range": 0.5}
    train = write(tmp_path / "pairs.jsonl", rows)
    settings = config(train, teacher=mapping, task="regression", tokenizer=VOCABULARY)
    dataset = build.load_data(settings, tmp_path / "work")
    model = build.load_teacher(settings, dataset, training=True, seed=3)
    assert model.config.type_vocab_size == 2
    save_model(tmp_path / "m", model, tokenizer_from=dataset.tokenizer, max_length=16)
    expected, _ = opened(tmp_path / "m", *dataset.validation.texts)
    np.testing.assert_allclose(logits_of(model, dataset, settings), expected, atol=1e-4, rtol=0)


def test_a_tokenizer_is_trained_on_what_is_trained_on(tmp_path):
    rows = [{"text": f"aaaa bbbb {i}", "label": i % 2} for i in range(40)]
    train = write(tmp_path / "train.jsonl", rows)
    dev = write(tmp_path / "dev.jsonl", [{"text": "zzzz zzzz", "label": i % 2} for i in range(40)])
    mapping = {"family": "bert", **SMALL}
    settings = config(train, teacher=mapping, validation=dev, tokenizer={"vocabulary": 265})
    dataset = build.load_data(settings, tmp_path / "work")
    assert dataset.train.lengths.max() < dataset.validation.lengths.max() == 2 + len("zzzz zzzz")


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_mapping_reads_with_a_folder_that_is_given(task, texts, tmp_path):
    reader = save_tokenizer(tmp_path / "words", WORDS)
    mapping = {"family": "distilbert", **SMALL, "max_position_embeddings": 40}
    settings = config(texts, teacher=mapping, tokenizer=reader, task=task)
    dataset = build.load_data(settings, tmp_path / "work")
    assert (str(dataset.tokenizer), dataset.vocabulary) == (reader, len(WORDS))
    model = build.load_teacher(settings, dataset, training=True, seed=0)
    sizes = (model.config.vocab_size, model.config.max_position_embeddings)
    assert sizes == (len(WORDS), 40)


def test_without_a_tokenizer_the_ways_to_one_are_told(texts, tmp_path):
    settings = config(texts, teacher={"family": "bert", **SMALL})
    with pytest.raises(DataError, match=r"no tokenizer to read it; .*data\.tokenizer=\{vocab"):
        build.load_data(settings, tmp_path / "work")
    few = config(texts, teacher={"family": "bert", **SMALL}, tokenizer={"vocabulary": 260})
    with pytest.raises(DataError, match=r"got 260, expected at least 261: 256 bytes and \[PAD\]"):
        build.load_data(few, tmp_path / "work")
    many = config(texts, teacher={"family": "bert", **SMALL}, tokenizer={"vocabulary": 5000})
    with pytest.raises(DataError, match=r"got 5000, expected at most \d+: the training texts"):
        build.load_data(many, tmp_path / "work")


def encoder_folder(path, family="bert", **fields):
    model = build_model(
        {"family": family, "vocab_size": len(WORDS), **SMALL, **fields}, num_labels=2
    )
    save_model(path, model)
    return save_tokenizer(path, WORDS)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layout", ["bucket", "pack"])
@pytest.mark.parametrize(
    ("teacher", "student", "who", "fits"),
    [
        (("roberta", 34), None, "teacher", 32),
        (("xlm-roberta", 20), ("bert", 18), "teacher", 18),
        (("bert", 64), ("bert", 32), "student", 32),
        (("bert", 64), ("roberta", 32), "student", 30),
        (("bert", 24), ("distilbert", 20), "student", 20),
    ],
)
def test_rows_have_positions_in_both_models(layout, teacher, student, who, fits, tmp_path):
    sides = {}
    for side, of in (("teacher", teacher), ("student", student)):
        if of is not None:
            fields = {"family": of[0], "max_position_embeddings": of[1]}
            sides[side] = {"model": encoder_folder(tmp_path / side, pad_token_id=1, **fields)}
    sides.setdefault("student", {"layers": [0]})
    rows = [{"text": " ".join(["good film"] * (1 + i)), "label": i % 2} for i in range(40)]
    train = write(tmp_path / "train.jsonl", rows)
    long = config(train, **sides, layout=layout, max_length=fits + 1)
    message = f"rows of {fits + 1} tokens, expected at most {fits}, the positions of the {who}"
    with pytest.raises(DataError, match=message):
        build.load_data(long, tmp_path / "work")
    settings = config(train, **sides, layout=layout, max_length=fits)
    dataset = build.load_data(settings, tmp_path / "work")
    assert dataset.validation.lengths.max() == fits
    for model in (
        build.load_teacher(settings, dataset, training=True, seed=0),
        build.make_student(settings, dataset, None, 0),
    ):
        assert np.isfinite(logits_of(model, dataset, settings)).all()


def test_a_mapping_with_too_few_positions_is_refused_and_one_without_gets_them(texts, tmp_path):
    short = {"family": "roberta", **SMALL, "max_position_embeddings": 17, "pad_token_id": 0}
    with pytest.raises(
        DataError, match=r"at most 16, the positions of the student; set data\.max_l"
    ):
        build.load_data(
            config(
                texts,
                teacher={"family": "bert", **SMALL},
                student={"model": short},
                tokenizer=VOCABULARY,
                max_length=17,
            ),
            tmp_path / "work",
        )


def test_the_tokenizer_is_that_of_the_first_folder_that_has_one(texts, tmp_path):
    bare = tmp_path / "bare"
    encoder_folder(bare)
    (bare / "tokenizer.json").unlink()
    other = encoder_folder(tmp_path / "student")
    settings = config(texts, teacher={"model": str(bare)}, student={"model": other})
    assert str(build.load_data(settings, tmp_path / "work").tokenizer) == other
    neither = config(texts, teacher={"model": str(bare)}, student={"layers": [0]})
    with pytest.raises(DataError, match=r"none can be loaded from .*bare: it holds none of"):
        build.load_data(neither, tmp_path / "work")


def test_another_tokenizer_than_the_teachers_is_found(texts, tmp_path):
    folder = encoder_folder(tmp_path / "teacher")
    settings = config(
        texts, teacher={"model": folder}, student={"layers": [0]}, tokenizer=VOCABULARY
    )
    dataset = build.load_data(settings, tmp_path / "work")
    (finding,) = checks_text.tokenizers(Examined(settings, dataset, None, None))
    assert finding.level == "fatal"
    assert "the teacher would read other words; drop data.tokenizer" in finding.message
    same = config(texts, teacher={"model": folder}, student={"layers": [0]}, tokenizer=folder)
    dataset = dataclasses.replace(dataset, tokenizer=tmp_path / "teacher")
    assert not list(checks_text.tokenizers(Examined(same, dataset, None, None)))


def test_what_a_stage_left_is_read_with_its_own_pooling(texts, tmp_path):
    """A student may pool otherwise than its teacher: both are read again to be measured."""
    folder = encoder_folder(tmp_path / "teacher")
    for mine, other in (("mean", "default"), ("first", "mean"), ("default", "mean")):
        settings = config(
            texts,
            teacher={"model": folder, "pooling": other},
            student={"layers": [0], "pooling": mine},
        )
        dataset = build.load_data(settings, tmp_path / "work")
        student = build.make_student(settings, dataset, None, 0)
        save_model(tmp_path / "left", student, tokenizer_from=dataset.tokenizer, max_length=16)
        again = build.load_finetuned(tmp_path / "left", settings, dataset)
        assert (again.options.pooling, again.initialized) == (mine, ())


def test_a_folder_that_pools_by_the_mean_can_be_a_teacher_by_its_name_alone(texts, tmp_path):
    model = build_model(
        {"family": "bert", "vocab_size": len(WORDS), **SMALL, "max_position_embeddings": 16},
        labels=["bad", "good"],
        pooling="mean",
        seed=5,
    )
    words = save_tokenizer(tmp_path / "words", WORDS)
    save_model(tmp_path / "m", model, tokenizer_from=words, max_length=16)
    settings = config(texts, teacher={"model": str(tmp_path / "m")}, student={"layers": [0]})
    dataset = build.load_data(settings, tmp_path / "work")
    assert dataset.labels == ("bad", "good")
    found = build.load_teacher(settings, dataset, training=False, seed=0)
    assert (found.options.pooling, found.initialized) == ("mean", ())
    with pytest.raises(DataError, match="rows of 17 tokens, expected at most 16"):
        build.load_data(
            config(texts, teacher={"model": str(tmp_path / "m")}, max_length=17), tmp_path
        )
    levels = {f.name: f for f in Workspace(settings, tmp_path / "run", False).examine()}
    assert levels["pooling"].level == "warning"
    assert "set student.pooling=default" in levels["pooling"].message


def test_a_config_without_positions_leaves_them_to_the_model(texts, tmp_path):
    folder = encoder_folder(tmp_path / "teacher")
    change_config(tmp_path / "teacher", max_position_embeddings=None)
    settings = config(texts, teacher={"model": folder}, student={"layers": [0]})
    assert build.row_limits(settings) == {}
    assert load_model(folder).config.max_position_embeddings == 512
