"""From a configuration to a data set of texts and labels, over every source, on small files."""

import logging

import numpy as np
import pytest
from support.datasets import LINES, TSV, load

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.dataset import NamedHead, prepare
from jaxdistill.data.text.used_vocabulary import used_ids
from jaxdistill.errors import DataError


def test_a_file_becomes_two_splits(write, tokenizer_folder):
    data = load(tokenizer_folder, train=write("a.tsv", TSV), validation_fraction=0.25)
    assert (len(data.train), len(data.validation), data.test) == (45, 15, None)
    assert (data.modality, data.labels, data.num_labels) == ("text", None, 2)
    assert data.validation.labels.sum() == 10
    assert data.notes["train.rows"] == 45
    assert data.notes["train.repeated"] == 45 - len({data.train.text(i) for i in range(45)})
    assert data.notes["validation.seen"] > 0
    for split in (data.train, data.validation):
        for example in range(len(split)):
            (text,) = split.text(example)
            assert text == text.strip()
            assert split.labels[example] == ("good" in text)
            assert split.lengths[example] == len(text.split()) + 2


def test_the_same_configuration_gives_the_same_data(write, tokenizer_folder, tmp_path):
    path = write("a.tsv", TSV)
    first = load(tokenizer_folder, train=path, cache_dir=tmp_path / "cache")
    second = load(tokenizer_folder, train=path, cache_dir=tmp_path / "cache")
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.train.inputs.tokens, second.train.inputs.tokens)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    load(tokenizer_folder, train=path, cache_dir=tmp_path / "other", cache=False)
    assert not (tmp_path / "other").exists()
    changes = [{"split_seed": 1}, {"max_length": 4}, {"train_examples": 20}]
    others = {load(tokenizer_folder, train=path, **change).fingerprint for change in changes}
    assert len({first.fingerprint, *others}) == 4


def test_fewer_training_examples_leave_validation_alone(write, tokenizer_folder, caplog):
    path = write("a.tsv", TSV)
    whole = load(tokenizer_folder, train=path)
    few = load(tokenizer_folder, train=path, train_examples=10)
    assert len(few.train) == 10
    assert few.validation.fingerprint == whole.validation.fingerprint
    with caplog.at_level(logging.WARNING, "jaxdistill"):
        assert len(load(tokenizer_folder, train=path, train_examples=99).train) == 48
    assert "train_examples: got 99 of 48 rows, all are used" in caplog.text


def test_pairs_regression_and_given_splits(write, tokenizer_folder):
    rows = [f"{i}\tgood\tbad film\t{i / 10}" for i in range(20)]
    pairs = "\n".join(["index\tsentence1\tsentence2\tscore", *rows])
    data = load(
        tokenizer_folder,
        task="regression",
        train=write("train.tsv", pairs),
        validation=write("dev.tsv", pairs),
        test=write("test.tsv", pairs),
    )
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 20, 20)
    assert data.num_labels == 1
    assert data.train.labels.dtype == np.float32
    batch = train_batches(data.train, batch_size=4, seed=0, config=DataConfig(train="x"))[0]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    assert batch["labels"].dtype == np.float32
    assert data.notes["validation.seen"] == 20


def test_several_labels(write, tokenizer_folder):
    rows = [f'{{"text": "good", "labels": {labels}}}' for labels in ('["a", "b"]', "[]", '["b"]')]
    path = write("a.jsonl", "\n".join(rows))
    data = load(tokenizer_folder, task="multilabel", train=path, validation=path)
    assert data.labels == ("a", "b")
    assert data.train.labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    batch = train_batches(data.train, batch_size=2, seed=0, config=DataConfig(train="x"))[0]
    assert batch["labels"].shape == (2, 2)


def test_names_of_the_model_decide_the_order(write, tokenizer_folder):
    rows = ["premise\thypothesis\tlabel"] + ["a\tb\tyes", "a\tb\tno"] * 5
    path = write("a.tsv", "\n".join(rows))
    assert load(tokenizer_folder, train=path).labels == ("no", "yes")
    data = load(tokenizer_folder, train=path, validation=path, labels=["yes", "no"], num_labels=2)
    assert data.labels == ("yes", "no")
    assert data.train.labels[:2].tolist() == [0, 1]
    generic = load(tokenizer_folder, train=path, labels=["LABEL_0", "LABEL_1"], num_labels=2)
    assert generic.labels == ("no", "yes")
    with pytest.raises(DataError, match=r"got \['no', 'maybe'\], expected the model's own"):
        prepare(
            DataConfig(train=path, labels=("no", "maybe")),
            task="classification",
            tokenizer_folder=tokenizer_folder,
            labels=["yes", "no"],
        )


def test_a_hugging_face_data_set(tmp_path, monkeypatch, tokenizer_folder):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    folder = tmp_path / "set"
    folder.mkdir()
    for part, count in (("train", 8), ("validation", 4)):
        rows = "\n".join(f"good,{i % 2}" for i in range(count))
        (folder / f"{part}.csv").write_text(f"text,label\n{rows}\n")
    data = load(tokenizer_folder, source=str(folder))
    assert (len(data.train), len(data.validation)) == (8, 4)
    with pytest.raises(DataError, match=r"has no split 'trian'.*Did you mean 'train'"):
        load(tokenizer_folder, source=str(folder), train="trian")
    with pytest.raises(
        DataError, match=r"cannot load 'no/such' as a Hugging Face dataset: "
    ) as error:
        load(tokenizer_folder, source="no/such")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        load(source="digitz")


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (TSV, {"validation": "none.tsv"}, r"none\.tsv: no such file"),
        (
            "sentence\tlabel\na\t0\nb\t7\n",
            {"num_labels": 2},
            r"\.tsv line 3: got label 7, .* 0 to 1",
        ),
        ("sentence\tlabel\na\t0\n", {}, r"got 1 rows, expected enough to hold out"),
        ("words\tlabel\na\t0\n", {}, r"no column with a usual name.*\['words', 'label'\]"),
    ],
)
def test_bad_data_is_one_line(write, tokenizer_folder, content, values, message):
    with pytest.raises(DataError, match=message) as error:
        load(tokenizer_folder, train=write("a.tsv", content), **values)
    assert "\n" not in str(error.value)


def test_missing_texts_and_columns_are_named(write, tokenizer_folder):
    rows = '{"text": "a", "label": 0}\n{"label": 1}\n'
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl line 2: got text=None, expected text"):
        load(tokenizer_folder, train=path, validation=path)
    test = write("test.tsv", "index\tsentence\n0\tgood\n")
    with pytest.raises(DataError, match=r"test\.tsv: has no column 'label' with the labels"):
        load(tokenizer_folder, train=write("a.tsv", TSV), test=test)
    with pytest.raises(DataError, match="got text and no tokenizer to read it"):
        load(train=write("a.tsv", TSV))


def test_a_test_split_has_no_part_in_what_training_reads(write, tokenizer_folder):
    train = write("train.tsv", TSV)
    test = write("test.tsv", "sentence\tlabel\nan unseen word\t1\n")
    without = load(tokenizer_folder, train=train)
    beside = load(tokenizer_folder, train=train, test=test)
    assert beside.test is not None
    assert beside.fingerprint == without.fingerprint
    np.testing.assert_array_equal(used_ids(beside), used_ids(without))


def test_a_test_split_whose_labels_are_kept_secret_is_left_out(write, tokenizer_folder, tmp_path):
    write("set/train.tsv", TSV)
    write("set/dev.tsv", TSV)
    write("set/test.tsv", "sentence\nbad film\n")
    data = load(tokenizer_folder, train=str(tmp_path / "set"))
    assert (len(data.train), len(data.validation), data.test) == (60, 60, None)
    (remark,) = data.remarks
    assert remark.name == "unread files"
    assert "test.tsv: has no labels" in remark.message
    write("set/test.tsv", "sentence\tlabel\nbad film\t-1\n")
    assert load(tokenizer_folder, train=str(tmp_path / "set")).test is None
    write("set/test.tsv", "sentence\tlabel\nbad film\t1\n")
    with_test = load(tokenizer_folder, train=str(tmp_path / "set"))
    assert with_test.test is not None
    assert not with_test.remarks
    # One that was asked for is an error.
    write("set/test.tsv", "sentence\tlabel\nbad film\t-1\n")
    with pytest.raises(DataError, match="-1"):
        load(tokenizer_folder, train=str(tmp_path / "set"), test=str(tmp_path / "set/test.tsv"))


def test_rows_without_a_text_are_told(write, tokenizer_folder):
    rows = "".join(f"{'good film' if i else ''}\t{i % 2}\n" for i in range(40))
    path = write("a.tsv", "sentence\tlabel\n" + rows)
    data = load(tokenizer_folder, train=path, validation=write("b.tsv", TSV))
    (remark,) = data.remarks
    assert remark.message == "1 of 40 rows of train have no text; drop them"


def test_names_are_given_to_files_without_a_header(write, tokenizer_folder):
    path = write("cola.tsv", "".join(f"gj04\t{line.split(chr(9))[1]}\t\ta b\n" for line in LINES))
    names = ("source", "label", "mark", "text")
    data = load(tokenizer_folder, train=path, columns=names, validation=path)
    assert len(data.train) == 60
    with pytest.raises(DataError, match=r"looks like data.*name its 4 columns: data\.columns="):
        load(tokenizer_folder, train=path)


def test_columns_of_flags_are_those_that_the_head_is_named_after(write, tokenizer_folder):
    rows = [f"good film {i}\t{i % 2}\t1\t0" for i in range(8)]
    path = write("flags.tsv", "\n".join(["text\tlaw\tsport\tlong", *rows]) + "\n")

    def labels(*names):
        head = NamedHead(names, "teacher.model", "set teacher.fresh_head=true")
        data = load(tokenizer_folder, task="multilabel", labels=head, train=path, validation=path)
        return data.labels, data.train.labels[:2].tolist()

    assert labels("sport", "law") == (("sport", "law"), [[1, 0], [1, 1]])
    with pytest.raises(DataError, match=r"'long'\], expected one for each of \['law', 'money'\]"):
        labels("law", "money")
