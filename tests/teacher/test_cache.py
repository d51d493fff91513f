"""A cache on disk: what goes in comes out, whatever happens in between is noticed."""

import hashlib
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

import jaxdistill as jd
from jaxdistill.errors import CacheError, ConfigError, DataError
from jaxdistill.models.outputs import Head
from jaxdistill.teacher import codecs
from jaxdistill.teacher.cache_reader import inspect, open_cache
from jaxdistill.teacher.cache_writer import CacheWriter
from jaxdistill.teacher.codecs import Full, Hidden, Sampled, TopK
from jaxdistill.teacher.manifest import hash_tree
from jaxdistill.teacher.shards import map_tensors, write_tensors

WIDTH = 5
IDENTITY = {"teacher": "a" * 64, "tokenizer": "b" * 64, "data": "c" * 64}


def documents(count=12, seed=0):
    """Ragged examples as {number: float32 [tokens, WIDTH]}, one of them empty."""
    generator = np.random.default_rng(seed)
    numbers = generator.permutation(100)[:count]
    lengths = generator.integers(1, 9, count)
    lengths[3] = 0
    return {
        int(number): generator.normal(0, 1, (length, WIDTH)).astype(np.float32)
        for number, length in zip(numbers, lengths, strict=True)
    }


def batches(examples, size=3):
    """Arguments of `write_encoded` for the codec `full`, which stores what it is given."""
    items = list(examples.items())
    for start in range(0, len(items), size):
        part = items[start : start + size]
        values = np.concatenate([value for _, value in part])
        yield [number for number, _ in part], {"logits": values}, [len(v) for _, v in part]


def make(path, identity=None, **options):
    identity = IDENTITY if identity is None else identity
    options = {"width": WIDTH, "process_index": 0, "process_count": 1, **options}
    return CacheWriter(path, Full(), identity, **options)


def written(path, examples=None, **options):
    with make(path, shard_bytes=1, **options) as writer:
        for batch in batches(documents() if examples is None else examples):
            writer.write_encoded(*batch)
    return path


def content(path):
    """Everything in a cache, by example."""
    cache = open_cache(path)
    fields, lengths = cache.read(cache.examples)
    ends = np.cumsum(lengths)
    return {
        int(number): fields["logits"][end - length : end]
        for number, end, length in zip(cache.examples, ends, lengths, strict=True)
    }


def assert_holds(path, examples):
    found = content(path)
    assert found.keys() == examples.keys()
    for number, values in examples.items():
        np.testing.assert_array_equal(found[number], values)


def shards(path):
    return sorted((path / "shards").iterdir())


def test_what_is_written_is_read(tmp_path):
    examples = documents()
    cache = open_cache(written(tmp_path / "cache"))
    assert_holds(cache.path, examples)
    assert len(cache.manifest["shards"]) == 4
    assert list(cache.examples) == sorted(examples)
    assert cache.codec == Full()
    assert cache.width == WIDTH
    cache.verify()
    # Some, in another order and twice; then as rows, cut and padded.
    numbers = [*list(examples)[5:2:-1], list(examples)[5]]
    fields, lengths = cache.read(numbers)
    np.testing.assert_array_equal(lengths, [len(examples[n]) for n in numbers])
    np.testing.assert_array_equal(fields["logits"], np.concatenate([examples[n] for n in numbers]))
    rows = cache.rows(numbers, 4)["logits"]
    for row, number in zip(rows, numbers, strict=True):
        kept = examples[number][:4]
        np.testing.assert_array_equal(row[: len(kept)], kept)
        np.testing.assert_array_equal(row[len(kept) :], 0)


def test_tokens_of_a_packed_row(tmp_path):
    examples = documents()
    cache = open_cache(written(tmp_path / "cache"))
    long = [number for number, values in examples.items() if len(values) >= 3]
    owner = np.array([[long[0]] * 3 + [long[1]] * 2, [long[2]] * 2 + [-1] * 3])
    place = np.array([[0, 1, 2, 0, 1], [2, 1, 0, 0, 0]])
    packed = cache.tokens(owner, place)["logits"]
    assert packed.shape == (2, 5, WIDTH)
    for row in range(2):
        for column in range(5):
            number = owner[row, column]
            expected = 0 if number < 0 else examples[number][place[row, column]]
            np.testing.assert_array_equal(packed[row, column], expected)


def test_shards_are_safetensors(tmp_path):
    """The library that defines the format reads the same."""
    arrays = {
        "a": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "b": np.linspace(-1, 1, 10).astype(np.float32).reshape(2, 5),
        "c": np.arange(2, dtype=np.int64),
        "d": np.array([0.5, 2.0], jnp.bfloat16),
        "e": np.array([0.5, 2.0], jnp.float8_e4m3fn),
        "f": np.zeros((0, 4), np.float16),
    }
    path = tmp_path / "x.safetensors"
    digest, size = write_tensors(path, arrays)
    assert path.stat().st_size == size
    assert len(digest) == 64
    assert sorted(tmp_path.iterdir()) == [path]
    for name, array in map_tensors(path).items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    with safetensors.safe_open(path, "np") as file:
        assert set(file.keys()) == set(arrays)
        for name in "abcf":
            np.testing.assert_array_equal(file.get_tensor(name), arrays[name])
        assert [file.get_slice(name).get_dtype() for name in "de"] == ["BF16", "F8_E4M3"]


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
    with pytest.raises(CacheError, match=r"manifest\.json: cannot be read"):
        open_cache(cache.path)


def test_layouts_of_the_same_tokens_are_stored_alike(tmp_path):
    """Padded on either side, or in a row; sampled, whose draws go by example and position."""
    generator = np.random.default_rng(0)
    lengths = np.array([3, 1, 4])
    flat = generator.normal(0, 3, (8, 40)).astype(np.float32)
    right, left = np.zeros((2, 3, 4, 40), np.float32)
    mask = np.arange(4)[None, :] < lengths[:, None]
    right[mask], left[mask[:, ::-1]] = flat, flat
    calls = [
        {"values": flat, "lengths": lengths},
        {"values": right, "lengths": lengths},
        {"values": jnp.asarray(right), "where": mask},
        {"values": left, "where": mask[:, ::-1]},
    ]
    stored = []
    for number, call in enumerate(calls):
        path = tmp_path / str(number)
        with CacheWriter(path, Sampled(6), process_index=0, process_count=1) as writer:
            writer.write([7, 8, 9], **call)
        stored.append(open_cache(path).read([7, 8, 9])[0])
    for other in stored[1:]:
        for name, array in stored[0].items():
            np.testing.assert_array_equal(other[name], array)
    expected = codecs.encode(
        Sampled(6),
        flat,
        codecs.token_keys(0, np.repeat([7, 8, 9], lengths), [0, 1, 2, 0, 0, 1, 2, 3]),
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(stored[0][name], array)


def test_hidden_states_come_with_their_head(tmp_path):
    generator = np.random.default_rng(0)
    hidden = generator.normal(0, 1, (20, 64)).astype(np.float32)
    head = Head(
        generator.normal(0, 0.4, (64, 50)).astype(np.float32),
        generator.normal(0, 1, 50).astype(np.float32),
        softcap=30.0,
        scale=0.5,
    )
    path = tmp_path / "cache"
    with CacheWriter(path, Hidden(), head=head, process_index=0, process_count=1) as writer:
        writer.write(np.arange(5), hidden, lengths=[4] * 5)
    cache = open_cache(path)
    back = cache.head()
    np.testing.assert_array_equal(back.weights, head.weights)
    np.testing.assert_array_equal(back.bias, head.bias)
    assert (back.softcap, back.scale) == (30.0, 0.5)
    decoded = codecs.decode(cache.codec, cache.read(np.arange(5))[0])
    np.testing.assert_allclose(decoded, hidden, atol=0.02)

    def distribution(states):
        logits = 30 * np.tanh(0.5 * (states.astype(float) @ head.weights + head.bias) / 30)
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    p, q = distribution(hidden), distribution(np.asarray(decoded))
    measured = inspect(path)["reconstruction_kl"]
    assert measured == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=0.02)
    assert measured < 1e-3
    other = Head(head.weights + 1, head.bias, 30.0, 0.5)
    with pytest.raises(CacheError, match=r"head\.sha256"):
        CacheWriter(path, Hidden(), head=other, process_index=0, process_count=1)
    np.testing.assert_array_equal(open_cache(path).head().weights, head.weights)
    broken = bytearray((path / "head.safetensors").read_bytes())
    broken[-3] ^= 4
    (path / "head.safetensors").write_bytes(broken)
    with pytest.raises(CacheError, match=r"head\.safetensors: got SHA-256"):
        open_cache(path).head()
    with pytest.raises(ConfigError, match="head: got none with the codec hidden"):
        CacheWriter(tmp_path / "other", "hidden", process_index=0, process_count=1)


def test_any_black_box_can_be_the_teacher(tmp_path):
    """A forest of scikit-learn, whose log-probabilities hold -inf; reading needs the path alone."""
    from sklearn.ensemble import RandomForestClassifier

    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (60, 4))
    forest = RandomForestClassifier(5, random_state=0).fit(x, (x[:, 0] > 0) + 2 * (x[:, 1] > 0.5))
    with np.errstate(divide="ignore"):
        log_probabilities = np.log(forest.predict_proba(x))
    assert np.isneginf(log_probabilities).any()
    with jd.CacheWriter(tmp_path / "forest", "full", {"teacher": "forest"}) as writer:
        for start in range(0, 60, 20):
            rows = slice(start, start + 20)
            writer.write(np.arange(60)[rows], log_probabilities[rows])
    cache = jd.open_cache(tmp_path / "forest", expect={"teacher": "forest"})
    back = np.exp(codecs.decode(cache.codec, cache.rows(np.arange(60), 1)))[:, 0]
    np.testing.assert_allclose(
        back / back.sum(-1, keepdims=True), forest.predict_proba(x), atol=1e-6
    )


def test_inspection_counts_what_is_on_disk(tmp_path):
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (4, 32, 50)).astype(np.float32)
    path = tmp_path / "cache"
    with CacheWriter(path, TopK(8), IDENTITY, process_index=0, process_count=1) as writer:
        writer.write(np.arange(4), logits)
    found = inspect(path)
    assert found["tokens"] == 128
    assert found["examples"] == 4
    assert found["codec"] == {"name": "topk", "k": 8, "temperature": 1.0}
    assert found["identity"] == IDENTITY
    assert found["bytes"] == sum(file.stat().st_size for file in shards(path))
    assert found["field_bytes_per_token"] == 8 * 3 + 4
    assert 28 < found["bytes_per_token"] < 28 + 700 / 128
    assert found["tokens_per_second"] > 0
    # The reconstruction spreads the tail evenly: by hand, over the tokens that were compared.
    p = np.exp(logits.reshape(-1, 50).astype(float))
    p /= p.sum(-1, keepdims=True)
    kept = np.sort(p, -1)[:, ::-1][:, :8]
    rest = np.sort(p, -1)[:, ::-1][:, 8:]
    by_hand = (rest * np.log(rest / (rest.sum(-1, keepdims=True) / 42))).sum(-1)
    count = found["tokens_compared"]
    assert count == 64
    assert found["reconstruction_kl"] == pytest.approx(by_hand[:count].mean(), rel=0.01)
    assert kept.shape == (128, 8)
    json.dumps(found)


def test_a_hash_of_parameters_sees_values_names_shapes_and_types():
    tree = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2)}
    same = {"b": jnp.ones(2, jnp.float32).astype(float), "a": {"w": jnp.asarray(tree["a"]["w"])}}
    same["b"] = np.ones(2)
    assert hash_tree(tree) == hash_tree(same)
    others = [
        {**tree, "b": np.nextafter(np.ones(2), 2)},
        {**tree, "c": np.ones(2)},
        {"a": tree["a"], "c": tree["b"]},
        {**tree, "b": np.ones(2, np.float32)},
        {**tree, "a": {"w": tree["a"]["w"].reshape(3, 2)}},
    ]
    assert len({hash_tree(tree), *(hash_tree(other) for other in others)}) == 6
    # Fixed for all time and every machine: caches are compared across runs.
    by_hand = hashlib.sha256(b"['x'] float32 (1,)\n" + bytes(4)).hexdigest()
    assert hash_tree({"x": np.zeros(1, np.float32)}) == by_hand
