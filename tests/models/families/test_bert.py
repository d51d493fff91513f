"""BERT against transformers on PyTorch, and what every text model shares: packing, scan, taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model

HEADS = ["classification", "masked_lm", None]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", HEADS)
def test_outputs_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("bert", head, tmp_path)
    model = load_model(tmp_path, head=head)
    assert model.initialized == ()
    parity.check_outputs(model, theirs, parity.text_batch(0, types=2), 1e-4)


def test_absent_token_types_and_mask_mean_type_zero_and_no_padding(tmp_path):
    theirs = parity.reference("bert", "classification", tmp_path)
    model = load_model(tmp_path)
    ids = {"input_ids": parity.text_batch(0)["input_ids"]}
    parity.check_outputs(model, theirs, ids, 1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_gradients_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("bert", head, tmp_path)
    model = load_model(tmp_path, head=head)
    parity.check_gradients(model, theirs, parity.text_batch(0, types=2), 1e-3)


@pytest.mark.parametrize("act", ["gelu_new", "relu"])
def test_activations_equal_those_of_transformers(act, tmp_path):
    theirs = parity.reference("bert", "classification", tmp_path, hidden_act=act)
    parity.check_outputs(load_model(tmp_path), theirs, parity.text_batch(0), 1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_round_trip(head, tmp_path):
    parity.reference("bert", head, tmp_path / "a")
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", head, parity.text_batch(0))


@pytest.mark.slow
def test_pretrained_minilm_equals_transformers(minilm_folder, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    texts = ["a moving and well acted film", "dull", "it never quite finds its feet , alas !"]
    batch = {
        k: v.astype(np.int32)
        for k, v in tokenizer(texts, padding=True, return_tensors="np").items()
    }
    theirs = transformers.AutoModel.from_pretrained(minilm_folder).eval()
    with torch.no_grad():
        expected = parity.run_torch(theirs, batch, output_hidden_states=True)
    model = load_model(minilm_folder, num_labels=2, seed=3)
    assert model.initialized == ("head/output/kernel", "head/output/bias")
    taps = ("pooled", "embeddings", *(f"layers.{i}.hidden" for i in range(6)))
    got = parity.run(model, batch, taps)
    np.testing.assert_allclose(got.features["pooled"], expected.pooler_output, rtol=0, atol=1e-4)
    names = ["embeddings", *(f"layers.{i}.hidden" for i in range(6))]
    for name, hidden in zip(names, expected.hidden_states, strict=True):
        np.testing.assert_allclose(got.features[name], hidden, rtol=0, atol=1e-4, err_msg=name)
    save_model(tmp_path / "out", model)
    exported = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        logits = parity.run_torch(exported.eval(), batch).logits
    np.testing.assert_allclose(got.logits, logits, rtol=0, atol=1e-5)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def _packed(rows: list[list[int]], length: int, pad: int) -> dict[str, np.ndarray]:
    """Pack the first two examples in one row and the third in another."""
    batch = {
        name: np.zeros((2, length), np.int32)
        for name in ("attention_mask", "segment_ids", "position_ids")
    }
    batch["input_ids"] = np.full((2, length), pad, np.int32)
    places = [(0, 0, 1), (0, len(rows[0]), 2), (1, 0, 1)]
    for tokens, (row, start, segment) in zip(rows, places, strict=True):
        span = slice(start, start + len(tokens))
        batch["input_ids"][row, span] = tokens
        batch["attention_mask"][row, span] = 1
        batch["segment_ids"][row, span] = segment
        batch["position_ids"][row, span] = np.arange(len(tokens))
    # The last example is filler, as in a batch that is not full.
    batch["pool_rows"] = np.array([0, 0, 1, 0], np.int32)
    batch["pool_columns"] = np.array([0, len(rows[0]), 0, 0], np.int32)
    return batch


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("bert", "default"),
        ("bert", "mean"),
        ("roberta", "default"),
        ("distilbert", "default"),
        ("mobilebert", "default"),
    ],
)
def test_packed_rows_equal_separate_rows(family, pooling):
    spec = parity.spec(family, initializer_range=0.1)
    model = build_model(spec, num_labels=3, pooling=pooling)
    pad = model.config.pad_token_id
    random = np.random.default_rng(0)
    rows = [list(random.integers(5, 99, n)) for n in (4, 6, 5)]
    packed = _packed(rows, 12, pad)
    mask = np.array([[1] * len(row) + [0] * (6 - len(row)) for row in rows], np.int32)
    ids = np.array([row + [pad] * (6 - len(row)) for row in rows], np.int32)
    taps = ("layers.2.hidden",)
    expected = parity.run(model, {"input_ids": ids, "attention_mask": mask}, taps)
    got, full = parity.run(model, packed), parity.run(model, packed, taps)
    np.testing.assert_allclose(got.logits[:3], expected.logits, atol=1e-5, rtol=0)
    np.testing.assert_allclose(full.logits[:3], expected.logits, atol=1e-5, rtol=0)
    for i, tokens in enumerate(rows):
        row, start = packed["pool_rows"][i], packed["pool_columns"][i]
        ours = full.features["layers.2.hidden"][row, start : start + len(tokens)]
        alone = expected.features["layers.2.hidden"][i, : len(tokens)]
        np.testing.assert_allclose(ours, alone, atol=1e-5, rtol=0)


def test_first_pooling_skips_the_pooler_and_mean_pooling_averages_valid_tokens():
    for pooling in ("first", "mean"):
        model = build_model(parity.spec("bert"), num_labels=2, pooling=pooling)
        assert "pooler" not in model.params
        batch = parity.text_batch(0)
        got = parity.run(model, batch, ("layers.2.hidden", "pooled"))
        hidden, mask = np.asarray(got.features["layers.2.hidden"]), batch["attention_mask"]
        expected = hidden[:, 0]
        if pooling == "mean":
            expected = np.stack(
                [row[valid > 0].mean(0) for row, valid in zip(hidden, mask, strict=True)]
            )
        np.testing.assert_allclose(got.features["pooled"], expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mobilebert"])
def test_the_pooled_tap_of_a_bare_encoder_is_what_its_pooling_says(family, pooling):
    model = build_model(parity.spec(family), head=None, pooling=pooling)
    assert "pooler" not in model.params
    batch = parity.text_batch(model.config.pad_token_id)
    got = parity.run(model, batch, ("pooled",))
    hidden, mask = np.asarray(got.hidden, np.float64), batch["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = mean if pooling == "mean" else hidden[:, 0]
    np.testing.assert_allclose(got.features["pooled"], expected, atol=1e-5)


@pytest.mark.slow
def test_scan_options_change_nothing():
    def values(**options):
        spec = parity.spec("bert", attention_probs_dropout_prob=0.0)
        model = build_model(spec, num_labels=2, **options)
        batch = {name: jnp.asarray(value) for name, value in parity.text_batch(0).items()}

        def loss(params):
            return model.apply(params, batch, rng=jax.random.key(1), train=True).logits.sum()

        return jax.tree.leaves(parity.compiled(jax.value_and_grad(loss))(model.params))

    plain = values()
    for options in ({"unroll": 2}, {"remat": True, "unroll": 8}):
        for expected, got in zip(plain, values(**options), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_one_layer_and_its_last_attention_alone():
    model = build_model(parity.spec("bert", num_hidden_layers=1), num_labels=2)
    batch = parity.text_batch(0)
    got = parity.run(model, batch, ("layers.0.attention",))
    np.testing.assert_allclose(got.logits, parity.run(model, batch).logits, atol=1e-6)
    np.testing.assert_allclose(got.features["layers.0.attention"].sum(-1), 1.0, atol=1e-6)
    deep = build_model(parity.spec("bert"), num_labels=2)
    alone = parity.run(deep, batch, ("layers.2.attention",)).features["layers.2.attention"]
    every = parity.run(deep, batch, parity.all_taps()).features["layers.2.attention"]
    np.testing.assert_allclose(alone, every, atol=1e-6)


def test_only_the_taps_asked_for_are_returned():
    model = build_model(parity.spec("bert"), num_labels=2)
    for tap in ("layers.1.hidden", "layers.2.hidden"):
        got = parity.run(model, parity.text_batch(0), (tap,))
        assert list(got.features) == [tap]
        assert got.features[tap].shape == (3, 9, 32)


def test_bfloat16_stays_near_float32_and_keeps_float32_parameters_and_logits():
    exact = build_model(parity.spec("bert", initializer_range=0.1), num_labels=2)
    half = build_model(parity.spec("bert", initializer_range=0.1), num_labels=2, dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.params))
    batch = parity.text_batch(0)
    got = parity.run(half, batch, ("layers.2.hidden", "layers.0.attention"))
    expected = parity.run(exact, batch, ("layers.2.hidden",))
    assert got.logits.dtype == jnp.float32
    assert got.features["layers.2.hidden"].dtype == jnp.bfloat16
    assert got.features["layers.0.attention"].dtype == jnp.float32
    error = np.abs(got.logits - expected.logits).max()
    assert 0 < error < 0.05 * np.abs(expected.logits).max() + 0.02
    one = np.asarray(got.features["layers.2.hidden"], np.float32)
    np.testing.assert_allclose(one, expected.features["layers.2.hidden"], atol=0.1)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_of_padding_gives_no_nan(dtype):
    model = build_model(parity.spec("bert"), num_labels=2, dtype=dtype)
    batch = parity.text_batch(0)
    batch["attention_mask"][0] = 0
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    gradient = parity.compiled(jax.grad(lambda p: model.apply(p, arrays).logits.sum()))(
        model.params
    )
    for leaf in [parity.run(model, batch).logits, *jax.tree.leaves(gradient)]:
        assert np.isfinite(leaf).all()


def test_padding_does_not_reach_the_logits():
    model = build_model(parity.spec("bert", initializer_range=0.2), num_labels=2)
    batch = parity.text_batch(0)
    other = dict(batch, input_ids=np.where(batch["attention_mask"] > 0, batch["input_ids"], 77))
    np.testing.assert_array_equal(parity.run(model, batch).logits, parity.run(model, other).logits)


@pytest.mark.slow
def test_dropout_draws_by_key_in_training_only():
    model = build_model(parity.spec("bert"), num_labels=2)
    batch = parity.text_batch(0)
    keys = [jax.random.key(0), jax.random.key(1)]
    plain = parity.run(model, batch).logits
    np.testing.assert_array_equal(parity.run(model, batch, rng=keys[0]).logits, plain)
    np.testing.assert_array_equal(parity.run(model, batch, train=True).logits, plain)
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    drawn = parity.compiled(
        lambda key: model.apply(model.params, arrays, rng=key, train=True).logits
    )
    first, second = drawn(keys[0]), drawn(keys[1])
    np.testing.assert_array_equal(first, drawn(keys[0]))
    assert np.abs(first - second).max() > 1e-4
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    without = build_model(parity.spec("bert", **off), num_labels=2)
    np.testing.assert_array_equal(parity.run(without, batch, rng=keys[0], train=True).logits, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, r"expected input_ids of shape \[B, T\]"),
        ({"input_ids": np.zeros((1, 30), np.int32)}, "30 tokens, expected at most 24"),
        ({"segment_ids": np.ones((3, 9), np.int32)}, "pool_rows and pool_columns together"),
    ],
)
def test_faulty_batches_are_named(change, message):
    model = build_model(parity.spec("bert"), num_labels=2)
    batch = {k: v for k, v in (parity.text_batch(0) | change).items() if v is not None}
    with pytest.raises(ModelError, match=message):
        model.apply(model.params, {k: jnp.asarray(v) for k, v in batch.items()})


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("layers.3.hidden", "layers.0 to layers.2"),
        ("layer.0.hidden", "Did you mean 'layers.0.hidden'"),
    ],
)
def test_unknown_taps_are_named(tap, message):
    model = build_model(parity.spec("bert"), num_labels=2)
    with pytest.raises(ModelError, match=message):
        parity.run(model, parity.text_batch(0), (tap,))


def test_an_id_outside_of_the_vocabulary_is_loud():
    model = build_model(parity.spec("bert"), num_labels=2)
    batch = parity.text_batch(0)
    batch["input_ids"][0, 0] = 99
    assert np.isnan(parity.run(model, batch).logits[0]).all()
