"""A cache on disk: what goes in comes out, in every layout and of any teacher."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from support.caches import (
    IDENTITY,
    WIDTH,
    assert_holds,
    documents,
    shards,
    written,
)

import jaxdistill as jd
from jaxdistill.errors import CacheError, ConfigError
from jaxdistill.files.tensor_files import map_tensors, write_tensors
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.cache.codecs import Full, Hidden, Sampled, TopK
from jaxdistill.teachers.cache.manifest import hash_tree
from jaxdistill.teachers.cache.reader import inspect, open_cache
from jaxdistill.teachers.cache.writer import CacheWriter


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


@pytest.mark.slow
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


@pytest.mark.slow
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
