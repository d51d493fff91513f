"""What labels are: every planted fault is found, and what the doctor says to write helps."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.findings import only, with_part
from support.setups import WORDS, save_tokenizer, text_dataset

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.dataset import prepare
from jaxdistill.data.label_space import LabelSpace
from jaxdistill.doctor import checks_classes


def labelled(labels, names=None, *, count=None, column="label", **fields):
    """A data set with these training labels."""
    labels = np.asarray(labels)
    count = count or (labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1)
    space = LabelSpace(count, names, columns=(column,), **fields)
    dataset = with_part(text_dataset(), "train", labels=labels)
    dataset = with_part(dataset, "validation", labels=labels)
    return dataclasses.replace(dataset, labels=names, num_labels=count, space=space)


def test_many_classes_with_few_rows(healthy):
    setup = healthy(dataset=labelled(np.arange(64) % 40))
    message = only(checks_classes.class_kind(setup), "warning")
    assert "40 classes for 64 training rows" in message
    assert "set task=regression" in message
    named = healthy(dataset=labelled(np.arange(64) % 40, tuple(f"n{i}" for i in range(40))))
    assert "data.label is the right" in only(checks_classes.class_kind(named), "warning")


def test_scores_that_are_read_as_classes(healthy):
    setup = healthy(dataset=labelled(np.arange(64) % 5, column="rating"))
    message = only(checks_classes.class_kind(setup), "warning")
    assert "the column 'rating' are read as 5 classes without an order" in message
    only(checks_classes.class_kind(healthy(dataset=labelled(np.arange(64) % 5))), "ok")
    two = healthy(dataset=labelled(np.arange(64) % 2, column="rating"))
    only(checks_classes.class_kind(two), "ok")


def test_a_single_class(healthy):
    setup = healthy(dataset=labelled(np.zeros(64, int), ("a",)))
    assert "every row has the same label (a)" in only(checks_classes.class_kind(setup), "fatal")


def test_codes_and_names_are_shown(healthy):
    codes = healthy(dataset=labelled(np.arange(64) % 2, ("10023", "20011"), by_name=True))
    message = only(checks_classes.class_kind(codes), "ok")
    assert message == "the numbers 10023, 20011 are names of the outputs 0 to 1"
    assert only(checks_classes.class_kind(healthy()), "ok") == "2 names: negative, positive"


def test_several_labels_in_one(healthy):
    names = ("law", "law|sport", "sport")
    setup = healthy(dataset=labelled(np.arange(64) % 3, names))
    message = only(checks_classes.class_kind(setup), "warning")
    assert "'law|sport' is made of the labels ['law', 'sport']; set task=multilabel" in message


def test_sets_of_labels(healthy):
    random = np.random.default_rng(0)
    flags = (random.uniform(size=(64, 3)) < 0.5).astype(np.float32)
    names = ("a", "b", "c")
    config = {"task": "multilabel", "metric": "f1"}

    def found(labels, level="warning"):
        dataset = labelled(labels, names)
        return only(checks_classes.set_kind(healthy(config, dataset=dataset)), level)

    found(flags, "ok")
    assert "set task=classification" in found(np.eye(3, dtype=np.float32)[np.arange(64) % 3])
    together = flags.copy()
    together[:, 2] = together[:, 0]
    assert "'a' and 'c' always occur together" in found(together)
    lacking = flags.copy()
    lacking[:, 1] = 0
    assert "1 labels never occur in validation (b), and each counts 0 in f1" in found(lacking)


def test_spelling(healthy):
    names = ("Neg", "neg", "pos", "very good", "very_good")
    setup = healthy(dataset=labelled(np.array([0, 1, 1, 2, 3, 4, 4]), names))
    message = only(checks_classes.spelling(setup), "warning")
    assert "'Neg' and 'neg'; 'very good' and 'very_good' are 5 labels" in message
    assert message.endswith("set data.labels=[neg, pos, very_good] to take them as one")
    only(checks_classes.spelling(healthy()), "ok")
    only(checks_classes.spelling(healthy(dataset=labelled([0, 1], ("C-1", "C-2")))), "ok")


def test_what_the_doctor_says_of_spelling_helps(healthy, tmp_path):
    spellings = ["Neg", "neg", "pos ", "Pos", "it's", "It's"]
    rows = [f"good film,{spellings[i % 6]}" for i in range(60)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text,label", *rows]))
    folder = Path(save_tokenizer(tmp_path / "tokenizer", WORDS))

    def read(**values):
        config = DataConfig(train=str(path), **values)
        return prepare(config, task="classification", tokenizer_folder=folder)

    before = read()
    assert before.num_labels == 6
    message = only(checks_classes.spelling(healthy(dataset=before)), "warning")
    (told,) = re.findall(r"data\.labels=(\[.*\])", message)
    said = yaml.safe_load(told)
    after = read(labels=said)
    assert sorted(name.casefold() for name in after.labels or ()) == ["it's", "neg", "pos"]
    only(checks_classes.spelling(healthy(dataset=after)), "ok")


@pytest.mark.parametrize(
    ("names", "config", "positive", "level", "told"),
    [
        (
            ("cat", "dog"),
            {},
            1,
            "warning",
            "'dog', because it is the second; set data.positive=cat",
        ),
        (("cat", "dog"), {"positive": "cat"}, 0, "ok", "'cat', as data.positive says"),
        (("fraud", "normal"), {}, 0, "ok", "'fraud'; data.positive names another"),
        (None, {}, 1, "ok", "the label '1'"),
        (("a", "b", "c"), {}, None, "ok", "the mean over the classes that occur or are predicted"),
    ],
)
def test_the_label_that_f1_is_of(healthy, names, config, positive, level, told):
    count = 2 if names is None else len(names)
    dataset = labelled(np.arange(64) % count, names)
    dataset = dataclasses.replace(dataset, positive=positive)
    values = {"metric": "f1", "data": {"train": "train.tsv", "max_length": 16, **config}}
    assert told in only(checks_classes.measured_label(healthy(values, dataset=dataset)), level)
    assert list(checks_classes.measured_label(healthy(dataset=dataset))) == []
