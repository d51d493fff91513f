"""Folders, patterns and lists that are data sets: which files are read, and which are not."""

import gzip
import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.reading.documents import read_documents
from jaxdistill.data.reading.folders import find_parts
from jaxdistill.data.reading.sources import read_sources
from jaxdistill.errors import DataError


def rows(start: int, count: int, label: int | None = None) -> list[dict]:
    return [
        {"text": f"document {i}", "label": i % 2 if label is None else label}
        for i in range(start, start + count)
    ]


def shard(path, kind: str, content: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif kind == "arrow":
        table = pyarrow.Table.from_pylist(content)
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    elif kind.startswith("jsonl"):
        lines = "".join(json.dumps(row) + "\n" for row in content).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [
            mark.join(map(str, row.values())) for row in [{"a": "text", "b": "label"}, *content]
        ]
        path.write_text("\n".join(lines) + "\n")


def texts(table) -> list[str]:
    return list(table.columns["text"])


def files(config: DataConfig, *, documents: bool = False) -> dict[str, list[str]]:
    found, _ = find_parts(config, documents=documents)
    return {part: [file.name for file in one.files] for part, one in found.items()}


ALL = [row["text"] for row in rows(0, 40)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet", "arrow"])
def test_a_folder_of_shards_is_one_table_and_one_corpus(tmp_path, kind):
    for number in range(4):
        shard(tmp_path / f"part-{number:04d}.{kind}", kind, rows(10 * number, 10))
    (tmp_path / "_SUCCESS").touch()
    config = DataConfig(train=str(tmp_path))
    table = read_sources(config).train
    assert texts(table) == ALL
    assert list(map(int, table.columns["label"])) == [i % 2 for i in range(40)]
    first = {"csv": 2, "tsv": 2}.get(kind, 1)
    assert table.at(20).startswith(f"{tmp_path / f'part-0002.{kind}'} ")
    assert table.at(20).endswith(f" {first}")
    found = read_documents(config)
    assert {*found["train"].items, *found["validation"].items} == set(ALL)
    assert not found["train"].remarks


@pytest.mark.parametrize(
    "names", ["*.jsonl", "**/part-*.jsonl", ("part-0.jsonl", "part-1.jsonl"), ("part-[01].jsonl",)]
)
def test_patterns_and_lists_name_files(tmp_path, names):
    for number in range(2):
        shard(tmp_path / f"part-{number}.jsonl", "jsonl", rows(20 * number, 20))
    whole = [str(tmp_path / name) for name in ([names] if isinstance(names, str) else names)]
    config = DataConfig(train=whole[0] if isinstance(names, str) else tuple(whole))
    assert texts(read_sources(config).train) == ALL
    with pytest.raises(DataError, match=r"data\.train: no file matches .*\.tsv"):
        read_sources(DataConfig(train=str(tmp_path / "*.tsv")))


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    shard(tmp_path / "a [1].jsonl", "jsonl", rows(0, 3))
    assert len(read_sources(DataConfig(train=str(tmp_path / "a [1].jsonl"))).train) == 3


def test_a_folder_of_the_hub_brings_its_splits(tmp_path, caplog):
    for part, start, count in (("train", 0, 20), ("validation", 20, 10), ("test", 30, 10)):
        for number in range(2):
            path = tmp_path / "data" / f"{part}-0000{number}-of-00002.parquet"
            shard(path, "parquet", rows(start + number * count // 2, count // 2))
    for name in ("README.md", "dataset_infos.json", ".gitattributes", f"{tmp_path.name}.py"):
        (tmp_path / name).write_text("{}")
    config = DataConfig(train=str(tmp_path))
    with caplog.at_level(logging.INFO, "jaxdistill"):
        found = read_sources(config)
    assert found.validation is not None
    assert found.test is not None
    assert texts(found.train) + texts(found.validation) + texts(found.test) == ALL
    assert found.brought == {"validation", "test"}
    assert "not read as data: README.md, dataset_infos.json" in caplog.text
    assert "files by split: train 2, validation 2, test 2" in caplog.text
    documents = read_documents(config)
    assert [len(documents[part]) for part in ("train", "validation", "test")] == [20, 10, 10]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train.jsonl", "dev.jsonl", "test.jsonl"], {"train": 0, "validation": 1, "test": 2}),
        (["Train_1.jsonl", "valid-1.jsonl"], {"train": 0, "validation": 1}),
        (["training/a.jsonl", "val/a.jsonl"], {"train": 0, "validation": 1}),
        (["a.jsonl", "a.test.jsonl"], {"train": 0, "test": 1}),
        (["latest.jsonl", "devices.jsonl"], {"train": (0, 1)}),
    ],
)
def test_names_of_files_tell_their_split(tmp_path, names, parts):
    for name in names:
        shard(tmp_path / name, "jsonl", rows(0, 2))
    found, _ = find_parts(DataConfig(train=str(tmp_path)), documents=False)
    expected = {
        part: {tmp_path / names[i] for i in ([at] if isinstance(at, int) else at)}
        for part, at in parts.items()
    }
    assert {part: set(one.files) for part, one in found.items()} == expected


def test_a_split_of_the_folder_is_picked_by_its_name(tmp_path):
    for part in ("train", "test"):
        shard(tmp_path / f"{part}.jsonl", "jsonl", rows(0, 2))
    train = str(tmp_path)
    assert files(DataConfig(train=train, validation="test"))["validation"] == ["test.jsonl"]
    with pytest.raises(DataError, match=r"data\.validation: .* such as .*validation=.*test\.jsonl"):
        files(DataConfig(train=train, validation=train))
    with pytest.raises(
        DataError, match=r"data\.validation: got 'tset', .*\['test', 'train'\].*tes"
    ):
        files(DataConfig(train=train, validation="tset"))


def test_files_that_no_split_names_are_told(tmp_path):
    for name in ("train", "dev", "extra"):
        shard(tmp_path / f"{name}.jsonl", "jsonl", rows(0, 2))
    (remark,) = read_sources(DataConfig(train=str(tmp_path))).train.remarks
    assert remark.name == "unread files"
    assert remark.message.startswith(f"1 of 3 files in {tmp_path} are not read: extra.jsonl")


def test_mixed_formats_are_refused_and_one_can_be_chosen(tmp_path):
    shard(tmp_path / "a.jsonl", "jsonl", rows(0, 2))
    shard(tmp_path / "b.jsonl", "jsonl", rows(2, 2))
    shard(tmp_path / "c.csv", "csv", rows(4, 2))
    message = r"several formats in .*: 1 csv \(c\.csv\), 2 jsonl \(a\.jsonl\).*/\*\.jsonl'"
    for documents in (False, True):
        with pytest.raises(DataError, match=message):
            files(DataConfig(train=str(tmp_path)), documents=documents)
        chosen = DataConfig(train=str(tmp_path), format="jsonl")
        assert files(chosen, documents=documents) == {"train": ["a.jsonl", "b.jsonl"]}
    (remark,) = read_sources(DataConfig(train=str(tmp_path), format="jsonl")).train.remarks
    assert "1 of 3 files" in remark.message
    with pytest.raises(DataError, match="several formats"):
        files(DataConfig(train=(str(tmp_path / "a.jsonl"), str(tmp_path / "c.csv"))))


def test_shards_of_other_columns_are_refused_or_told(tmp_path):
    shard(tmp_path / "a.csv", "csv", rows(0, 2))
    (tmp_path / "b.csv").write_text("sentence,label\nx,1\n")
    with pytest.raises(
        DataError, match=r"b\.csv: got the columns \['sentence', 'label'\], expected"
    ):
        read_sources(DataConfig(train=str(tmp_path)))
    shard(tmp_path / "lines" / "a.jsonl", "jsonl", [{**row, "url": "x"} for row in rows(0, 2)])
    shard(tmp_path / "lines" / "b.jsonl", "jsonl", rows(0, 2))
    table = read_sources(DataConfig(train=str(tmp_path / "lines"))).train
    assert table.columns["url"] == ["x", "x", None, None]
    assert "1 of 2 files" in table.remarks[0].message
    assert "no column 'url'" in table.remarks[0].message


def test_a_folder_of_texts_holds_documents_and_no_tables(tmp_path):
    for number in range(12):
        # A name that would tell the split of a table tells nothing of one text of many.
        (tmp_path / f"{number}{'-test' if number == 5 else ''}.txt").write_text(f"text {number}")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF\xff\xfe\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("hidden")
    found = read_documents(DataConfig(train=str(tmp_path)))
    read = {*found["train"].items, *found["validation"].items}
    assert read == {f"text {i}" for i in range(12)} | {"notes"}
    (remark,) = found["train"].remarks
    assert "1 of 14 files" in remark.message
    assert "scan.pdf" in remark.message
    (tmp_path / "index.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"1 jsonl \(index\.json\), 13 text"):
        read_documents(DataConfig(train=str(tmp_path)))
    asked = read_documents(DataConfig(train=str(tmp_path), format="text"))
    assert '{"a": 1}' in {*asked["train"].items, *asked["validation"].items}


def test_texts_named_by_split_are_split(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"wiki.{part}.tokens").write_text(f"{part} text")
    found = read_documents(DataConfig(train=str(tmp_path)))
    assert {part: one.items for part, one in found.items()} == {
        "train": ["train text"],
        "validation": ["valid text"],
        "test": ["test text"],
    }


def test_texts_in_folders_of_their_labels(tmp_path):
    for part in ("train", "test"):
        for label in ("neg", "pos"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                (tmp_path / part / label / f"{number}_7.txt").write_text(f"{label} film {number}")
        (tmp_path / part / "urls.txt").write_text("http")
    found = read_sources(DataConfig(train=str(tmp_path)))
    assert found.test is not None
    for table in (found.train, found.test):
        assert table.columns["label"] == ["neg"] * 3 + ["pos"] * 3
        assert texts(table) == [f"{y} film {i}" for y in ("neg", "pos") for i in range(3)]
    assert "urls.txt" in found.train.remarks[0].message
    # A folder of one split is a data set of its own.
    alone = read_sources(DataConfig(train=str(tmp_path / "train"))).train
    assert alone.columns["label"] == found.train.columns["label"]


def test_texts_without_labels_are_not_read_as_lines_of_labels(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("The film is good")
    with pytest.raises(DataError, match=r"3 text files in .* without labels \(0\.txt\)"):
        read_sources(DataConfig(train=str(tmp_path)))
    lines = read_sources(DataConfig(train=str(tmp_path), format="label_text"))
    assert lines.train.columns["label"] == ["The"] * 3


def test_folders_of_images_may_be_split(tmp_path):
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / "0.png").write_bytes(b"x")
    found = read_sources(DataConfig(train=str(tmp_path)))
    assert found.validation is not None
    for table in (found.train, found.validation):
        assert table.columns["label"] == ["cat", "dog"]


def save(folder, **splits) -> str:
    import datasets

    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    tables = {
        name: datasets.Dataset.from_list(content, features=features)
        for name, content in splits.items()
    }
    datasets.DatasetDict(tables).save_to_disk(str(folder))
    return str(folder)


def test_a_saved_data_set_brings_its_splits(tmp_path):
    path = save(tmp_path / "a", train=rows(0, 20), validation=rows(20, 10), test=rows(30, 10))
    found = read_sources(DataConfig(train=path))
    assert found.validation is not None
    assert found.test is not None
    assert texts(found.train) + texts(found.validation) + texts(found.test) == ALL
    assert found.train.names == {"label": ("bad", "good")}
    documents = read_documents(DataConfig(train=path))
    assert [documents[p].items for p in ("train", "validation")] == [ALL[:20], ALL[20:30]]
    one = read_sources(DataConfig(train=f"{path}/test"))
    assert (texts(one.train), one.validation) == (ALL[30:], None)
    named = read_sources(DataConfig(train=path, validation="test"))
    assert named.validation is not None
    assert texts(named.validation) == ALL[30:]
    # The same folder as a source of its own, which `load_dataset` refuses.
    source = read_sources(DataConfig(source=path))
    assert texts(source.train) == ALL[:20]


def test_splits_of_other_names_are_asked_for(tmp_path):
    path = save(tmp_path / "a", unsupervised=rows(0, 3), other=rows(3, 3))
    message = r"a has the splits \['other', 'unsupervised'\], .*data\.train=.*a/other"
    with pytest.raises(DataError, match=message):
        read_documents(DataConfig(train=path))
    alone = save(tmp_path / "b", everything=rows(0, 3))
    assert len(read_sources(DataConfig(train=alone)).train) == 3


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for documents in (False, True):
        with pytest.raises(DataError, match=r"none: no such file; .*its folder holds empty"):
            find_parts(DataConfig(train=str(tmp_path / "none")), documents=documents)
        with pytest.raises(DataError, match=r"got no images in .*empty, .*it holds nothing"):
            find_parts(DataConfig(train=str(tmp_path / "empty")), documents=documents)
