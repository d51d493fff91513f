"""Who may write a cache: one process or several, the same cache, examples that are whole."""

import numpy as np
import pytest
from support.caches import (
    IDENTITY,
    WIDTH,
    assert_holds,
    batches,
    content,
    documents,
    make,
    shards,
    written,
)

from jaxdistill.errors import CacheError, ConfigError, DataError
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache.codecs import Full, TopK
from jaxdistill.teachers.cache.reader import open_cache
from jaxdistill.teachers.cache.writer import CacheWriter


def test_a_cache_of_something_else_is_refused_field_by_field(tmp_path):
    path = written(tmp_path / "cache")
    assert open_cache(path, IDENTITY | {"codec": "full", "width": WIDTH})
    assert open_cache(path, {"codec": {"name": "full", "dtype": "float32"}})
    other = {
        "teacher": "d" * 64,
        "tokenizer": "b" * 64,
        "data": "e" * 64,
        "codec": {"name": "topk", "k": 64},
        "width": 7,
        "revision": "main",
    }
    with pytest.raises(CacheError) as error:
        open_cache(path, other)
    message = str(error.value)
    assert "6 fields do not match" in message
    for part in (
        "teacher: got 'aaaaaaaaaaaaaaaa…', expected 'dddddddddddddddd…'",
        "data: got 'cccc",
        "codec.name: got 'full', expected 'topk'",
        "codec.k: got nothing, expected 64",
        "width: got 5, expected 7",
        "revision: got nothing, expected 'main'",
    ):
        assert part in message
    assert "tokenizer" not in message
    assert "\n" not in message


def test_another_cache_is_not_written_over(tmp_path):
    path = written(tmp_path / "cache")
    with pytest.raises(CacheError, match=r"holds another cache: identity\.teacher: got 'aaa"):
        make(path, {**IDENTITY, "teacher": "x"})
    with pytest.raises(CacheError, match=r"width: got 5, expected 6"):
        make(path, width=6)
    with pytest.raises(CacheError, match=r"codec\.dtype: got 'float32', expected 'float16'"):
        CacheWriter(path, Full("float16"), IDENTITY, process_index=0, process_count=1)
    assert_holds(path, documents())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex"):
        make(tmp_path / "other")
    with pytest.raises(ConfigError, match="got a file"):
        make(tmp_path / "other" / "thesis.tex")


def test_two_processes_write_one_cache(tmp_path):
    path, examples = tmp_path / "cache", documents()
    given = list(batches(examples))
    for process in (1, 0):
        with pytest.raises(CacheError, match=r"teacher cache|not complete"):
            open_cache(path)
        with make(path, process_index=process, process_count=2) as writer:
            for batch in given[process::2]:
                writer.write_encoded(*batch)
    assert_holds(path, examples)
    assert [file.name[:6] for file in shards(path)] == ["00000-", "00001-"]


def test_a_process_without_examples_completes_the_cache(tmp_path):
    path = tmp_path / "cache"
    written(path, process_count=2)
    with make(path, process_index=1, process_count=2, width=None):
        pass
    assert_holds(path, documents())


def test_writers_that_disagree_are_refused(tmp_path):
    path = tmp_path / "cache"
    written(path, process_count=2)
    other = make(path, {**IDENTITY, "data": "other"}, process_index=1, process_count=2)
    with pytest.raises(CacheError, match=r"writers made different caches.*identity\.data"):
        other.close()


def test_two_processes_with_the_same_examples_are_refused(tmp_path):
    path = tmp_path / "cache"
    for process in (0, 1):
        with make(path, process_index=process, process_count=2) as writer:
            writer.write_encoded(*next(batches(documents())))
    with pytest.raises(CacheError, match=r"is in shards/00000.* and in shards/00001"):
        open_cache(path)


def test_one_part_has_one_writer_at_a_time(tmp_path):
    with make(tmp_path / "cache"):
        with pytest.raises(CacheError, match="another process is writing"):
            make(tmp_path / "cache")
        make(tmp_path / "cache", process_index=1, process_count=2).close(complete=False)


def test_bad_examples_are_named(tmp_path):
    with make(tmp_path / "cache", width=None) as writer:
        with pytest.raises(ConfigError, match="width: got none"):
            writer.write_encoded([1], {}, [1])
        writer.write([1, 2], np.zeros((2, WIDTH), np.float32))
        with pytest.raises(DataError, match="example 2: written twice"):
            writer.write([2, 3], np.zeros((2, WIDTH), np.float32))
        with pytest.raises(DataError, match="written twice"):
            writer.write([4, 4], np.zeros((2, WIDTH), np.float32))
        with pytest.raises(DataError, match="got width 6, expected 5"):
            writer.write([5], np.zeros((1, 6), np.float32))
        with pytest.raises(DataError, match="examples: got float64"):
            writer.write([0.5], np.zeros((1, WIDTH), np.float32))
        with pytest.raises(DataError, match="examples: got int64"):
            writer.write([-5], np.zeros((1, WIDTH), np.float32))
        with pytest.raises(DataError, match=r"values: got shape \(3, 5\) for 2 examples"):
            writer.write([5, 6], np.zeros((3, WIDTH), np.float32), lengths=[1, 1])
        with pytest.raises(DataError, match=r"where: got float64 \(2, 3\)"):
            writer.write([5, 6], np.zeros((2, 3, WIDTH), np.float32), where=np.ones((2, 3)))
        with pytest.raises(DataError, match="fields: got"):
            writer.write_encoded([5], {"logits": np.zeros((1, WIDTH), np.float16)}, [1])
        broken = np.zeros((2, 3, WIDTH), np.float32)
        broken[1, 2, 0] = np.nan
        with pytest.raises(DataError, match="example 6: the teacher's values at token 2 are NaN"):
            writer.write([5, 6], broken)
        writer.write([5, 6], broken, lengths=[3, 2])  # padding is never looked at
    assert sorted(content(tmp_path / "cache")) == [1, 2, 5, 6]
    with pytest.raises(ConfigError, match="identity: got"):
        make(tmp_path / "other", {"teacher": object()})
    with pytest.raises(ConfigError, match="identity: got the names codec"):
        make(tmp_path / "other", {"codec": "mine"})
    with pytest.raises(ConfigError, match="process_index: got 2"):
        make(tmp_path / "other", process_index=2)


def test_one_class_that_is_nan_is_seen_among_many(tmp_path):
    """With this many classes the largest of a row passes over NaN on CPUs."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(16, 1000)).astype(np.float32)
    weights[0, 0] = np.nan
    hidden = generator.normal(size=(8, 16)).astype(np.float32)
    with (
        CacheWriter(
            tmp_path / "cache", TopK(4), head=Head(weights), process_index=0, process_count=1
        ) as writer,
        pytest.raises(DataError, match=r"NaN, \+inf or all -inf \(8 tokens"),
    ):
        writer.write(np.arange(2), hidden, lengths=[4, 4])
