"""What breaks a cache or is missing from it is noticed, named, and written again."""

import json
import logging

import numpy as np
import pytest
from support.caches import assert_holds, batches, content, documents, make, shards, written

from jaxdistill.errors import CacheError, DataError
from jaxdistill.teachers.cache.reader import open_cache


def test_a_writer_that_fails_goes_on_where_it_was(tmp_path, caplog):
    examples, path = documents(), tmp_path / "cache"
    given = list(batches(examples))
    _fail_after(path, given[:2])
    with pytest.raises(CacheError, match=r"not complete: 0 of 1 writers .* 2 shards"):
        open_cache(path)
    (path / "shards" / "00000-000002.safetensors.tmp").write_bytes(b"torn")
    (path / "shards" / "00000-000009.safetensors").write_bytes(b"never noted")
    before = {file.name: file.stat().st_mtime_ns for file in shards(path)}
    with caplog.at_level(logging.INFO, "jaxdistill"), make(path, shard_bytes=1) as writer:
        assert "goes on with 2 whole shards of 6 examples; swept 2" in caplog.text
        np.testing.assert_array_equal(writer.has(list(examples)), [True] * 6 + [False] * 6)
        for batch in given:
            writer.write_encoded(*batch)
    assert_holds(path, examples)
    after = {file.name: file.stat().st_mtime_ns for file in shards(path)}
    assert len(after) == 4
    assert all(after[name] == before[name] for name in list(before)[:2])  # kept, not rewritten
    # Once more: nothing to do, and nothing is touched.
    stamp = (path / "manifest.json").stat().st_mtime_ns
    with make(path) as writer:
        for batch in given:
            writer.write_encoded(*batch)
    assert (path / "manifest.json").stat().st_mtime_ns == stamp
    assert {file.name: file.stat().st_mtime_ns for file in shards(path)} == after


def _fail_after(path, given):
    try:
        with make(path, shard_bytes=1) as writer:
            for batch in given:
                writer.write_encoded(*batch)
            raise InterruptedError
    except InterruptedError:
        pass


def test_every_flipped_bit_is_found_and_named(tmp_path):
    path = written(tmp_path / "cache")
    shard = shards(path)[1]
    whole = shard.read_bytes()
    generator = np.random.default_rng(0)
    places = {0, 7, 8, 20, len(whole) - 1, *generator.integers(0, len(whole), 40).tolist()}
    for place in places:  # length, header, index and data
        broken = bytearray(whole)
        broken[place] ^= 1 << int(generator.integers(8))
        shard.write_bytes(broken)
        with pytest.raises(CacheError, match=shard.name):
            content(path)
    shard.write_bytes(whole)
    assert_holds(path, documents())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard, whole: shard.write_bytes(whole[:-1]), r"got \d+ bytes, .* truncated"),
        (lambda shard, whole: shard.write_bytes(b""), "got 0 bytes, .* truncated"),
        (lambda shard, whole: shard.write_bytes(whole + b"x"), "longer than it was"),
        (lambda shard, whole: shard.unlink(), "the file is missing"),
    ],
)
def test_a_damaged_shard_is_named_and_written_again(tmp_path, change, message, caplog):
    path = written(tmp_path / "cache")
    shard = shards(path)[2]
    change(shard, shard.read_bytes())
    with pytest.raises(CacheError, match=f"{shard.name}: .*{message}"):
        open_cache(path)
    with make(path) as writer:
        assert shard.name in caplog.text
        assert not (path / "manifest.json").exists()
        assert writer.has(list(documents())).sum() == 9
        for batch in batches(documents()):
            writer.write_encoded(*batch)
    assert_holds(path, documents())


def test_all_damage_is_listed_at_once(tmp_path):
    path = written(tmp_path / "cache")
    for shard in (shards(path)[0], shards(path)[3]):
        whole = bytearray(shard.read_bytes())
        start = 8 + int.from_bytes(whole[:8], "little")
        whole[start + 8 * 3 + 4 * 3] ^= 1  # behind the index of 3 examples
        shard.write_bytes(whole)
    cache = open_cache(path)  # sizes and indexes are whole
    with pytest.raises(CacheError) as error:
        cache.verify()
    assert all(shards(path)[number].name in str(error.value) for number in (0, 3))
    with pytest.raises(CacheError, match="00000-000000"):
        open_cache(path, verify=True)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(CacheError, match=r"no manifest\.json, expected the folder"):
        open_cache(tmp_path)
    cache = open_cache(written(tmp_path / "cache"))
    absent = next(number for number in range(100) if number not in documents())
    with pytest.raises(DataError, match=f"example {absent} is not in the cache"):
        cache.read([absent])
    number = int(cache.examples[cache.lengths == cache.lengths.max()][0])
    longest = int(cache.lengths.max())
    with pytest.raises(DataError, match=f"got position {longest}, expected 0 to {longest - 1}"):
        cache.tokens([number], [longest])
    with pytest.raises(CacheError, match="got the codec full, expected hidden"):
        cache.head()
    content = json.loads((cache.path / "manifest.json").read_text())
    (cache.path / "manifest.json").write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(CacheError, match="version 9, expected"):
        open_cache(cache.path)
    (cache.path / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match=r"manifest\.json: got no readable JSON .*delete"):
        open_cache(cache.path)


@pytest.mark.parametrize("name", ["manifest.json", "writers/00000.json"])
@pytest.mark.parametrize("lost", ["codec", "shards", "format", "width"])
def test_what_a_cache_says_of_itself_may_lack_a_part(tmp_path, name, lost):
    path = written(tmp_path / "cache")
    content = json.loads((path / name).read_text())
    del content[lost]
    (path / name).write_text(json.dumps(content))

    def read():
        if name == "manifest.json":
            open_cache(path)
        else:
            make(path)

    with pytest.raises(CacheError, match=r"write (the cache|it) again"):
        read()
    for broken in () if lost == "width" else ({**content, lost: 3}, {**content, lost: [{}]}):
        (path / name).write_text(json.dumps(broken))
        with pytest.raises(CacheError):
            read()
