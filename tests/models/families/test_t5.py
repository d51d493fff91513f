"""T5 against transformers on PyTorch: both stacks, either padding, tied and untied heads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.generation.seq2seq import generate_from_source
from jaxdistill.models.bodies.seq2seq import shifted_right
from jaxdistill.models.family import Model
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.layers.relative_bias import buckets
from jaxdistill.models.registry import build_model, load_model, save_model

SPEC = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
}
KINDS = {
    "v1.0": {},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
DEPTHS = {"encoder.": 2, "": 3}


def reference(
    folder: Path,
    kind: str,
    *,
    head: str | None = "lm",
    untie: bool = True,
    table: float = 1.0,
    **fields: Any,
) -> Any:
    """Write a random checkpoint to `folder` and return its model on PyTorch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(decoder_start_token_id=3, **SPEC | KINDS[kind] | fields)
    torch.manual_seed(0)
    name = "T5ForConditionalGeneration" if head == "lm" else "T5Model"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        if head == "lm" and kind == "v1.1" and untie:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(99, 32))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        model.shared.weight.mul_(table)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    return model


def texts(side: str, *, prefix: str = "", length: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Three texts, the second and third of them padded on one side."""
    random = np.random.default_rng(seed)
    mask = np.ones((3, length), np.int32)
    for row, missing in ((1, 5), (2, 1)):
        mask[row, slice(0, missing) if side == "left" else slice(length - missing, None)] = 0
    ids = np.where(mask > 0, random.integers(5, 99, (3, length)), 0).astype(np.int32)
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}


def pair(side: str) -> dict[str, np.ndarray]:
    """Sources and targets, padded on one side."""
    return texts(side) | texts(side, prefix="decoder_", length=9, seed=1)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "longest"), [(32, 128), (8, 9), (16, 1000)])
def test_buckets_equal_those_of_transformers(count, longest, bidirectional):
    torch = pytest.importorskip("torch")
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-1500, 1500)
    expected = T5Attention._relative_position_bucket(
        torch.tensor(distance), bidirectional, count, longest
    )
    got = buckets(distance, count=count, longest=longest, bidirectional=bidirectional)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_those_of_transformers(kind, tmp_path):
    theirs = reference(tmp_path, kind)
    model = load_model(tmp_path)
    assert model.initialized == ()
    assert ("head" in model.params) == (kind == "v1.1")
    for side in ("left", "right"):
        check_outputs(model, theirs, pair(side))


def check_outputs(model: Model, theirs: Any, batch: dict[str, np.ndarray]) -> None:
    """Compare logits, every hidden state and every attention map of both stacks."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = parity.run_torch(
            theirs, batch, output_hidden_states=True, output_attentions=True
        )
    taps, wanted = ["encoder.hidden"], {"encoder.hidden": expected.encoder_last_hidden_state}
    for stack, depth in DEPTHS.items():
        named = "encoder" if stack else "decoder"
        hidden = getattr(expected, f"{named}_hidden_states")
        maps = getattr(expected, f"{named}_attentions")
        wanted[f"{stack}embeddings"] = hidden[0]
        wanted |= {f"{stack}layers.{i}.hidden": hidden[i + 1] for i in range(depth)}
        wanted |= {f"{stack}layers.{i}.attention": maps[i] for i in range(depth)}
    crossed = expected.cross_attentions
    wanted |= {f"layers.{i}.cross_attention": crossed[i] for i in range(len(crossed))}
    got = parity.run(model, batch, tuple(wanted))
    assert set(got.features) == set(wanted)
    assert taps[0] in got.features
    real = {name: batch[f"{name}attention_mask"] > 0 for name in ("", "decoder_")}
    for name, value in wanted.items():
        ours, value = np.asarray(got.features[name]), np.asarray(value)
        rows = real["" if name.startswith("encoder.") else "decoder_"]
        if name.endswith("attention"):
            ours, value = np.swapaxes(ours, 1, 2), np.swapaxes(value, 1, 2)
        np.testing.assert_allclose(ours[rows], value[rows], rtol=0, atol=1e-4, err_msg=name)
    plain, rows = parity.run(model, batch), real["decoder_"]
    np.testing.assert_allclose(plain.logits[rows], expected.logits.numpy()[rows], rtol=0, atol=1e-4)
    head = plain.head()
    by_head = plain.hidden @ head.weights * head.scale
    np.testing.assert_allclose(by_head[rows], expected.logits.numpy()[rows], rtol=0, atol=1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_loss_equal_those_of_transformers(kind, tmp_path):
    torch = pytest.importorskip("torch")

    theirs = reference(tmp_path, kind)
    model = load_model(tmp_path)
    batch = texts("right")
    labels = texts("right", length=9, seed=1)
    targets = np.where(labels["attention_mask"] > 0, labels["input_ids"], -100)
    theirs(
        **{name: torch.tensor(value).long() for name, value in batch.items()},
        labels=torch.tensor(targets).long(),
    ).loss.backward()
    expected = parity._as_ours(
        model, {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    )
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}

    def loss(params):
        logits = model.apply(params, {**arrays, "labels": jnp.asarray(targets)}).logits
        assert logits is not None
        scores = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(scores, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        return -jnp.where(targets >= 0, own, 0.0).sum() / (targets >= 0).sum()

    got = flatten({"params": parity.compiled(jax.grad(loss))(model.params)})
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        error = np.abs(np.asarray(got[path]) - value).max() / np.abs(value).max()
        assert error < 1e-3, f"{path}: {error}"


@pytest.mark.parametrize(("kind", "head"), [("v1.0", "lm"), ("v1.1", "lm"), ("v1.1", None)])
def test_round_trip(kind, head, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    reference(tmp_path / "a", kind, head=head)
    model = load_model(tmp_path / "a", head=head)
    save_model(tmp_path / "b", model)
    again = load_model(tmp_path / "b", head=head)
    assert again.initialized == ()
    for path, value in flatten(model.params).items():
        np.testing.assert_array_equal(value, flatten(again.params)[path], err_msg=path)
    name = "T5ForConditionalGeneration" if head == "lm" else "T5Model"
    theirs, info = getattr(transformers, name).from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = pair("right")
    with torch.no_grad():
        expected = parity.run_torch(theirs.eval(), batch)
    got = parity.run(again, batch)
    rows = batch["decoder_attention_mask"] > 0
    ours, reference_ = (
        (got.hidden, expected.last_hidden_state) if head is None else (got.logits, expected.logits)
    )
    np.testing.assert_allclose(ours[rows], reference_.numpy()[rows], rtol=0, atol=1e-4)


def test_a_head_said_to_be_untied_but_not_stored_is_the_word_table(tmp_path):
    theirs = reference(tmp_path, "v1.1", untie=False)
    model = load_model(tmp_path)
    assert model.initialized == ()
    assert "head" not in model.params
    assert model.config.scale_decoder_outputs is False
    batch = pair("right")
    rows = batch["decoder_attention_mask"] > 0
    expected = parity.run_torch(theirs, batch).logits.detach().numpy()
    np.testing.assert_allclose(
        parity.run(model, batch).logits[rows], expected[rows], rtol=0, atol=1e-4
    )


def test_labels_are_shifted_behind_the_start():
    labels = jnp.array([[7, 8, -100, -100]])
    got = shifted_right(labels, start_id=3, pad_id=0)
    np.testing.assert_array_equal(got, [[3, 7, 8, 0]])


@pytest.mark.slow
def test_packed_rows_equal_separate_rows():
    model = build_model({"family": "t5", **SPEC, "initializer_factor": 1.0})
    random = np.random.default_rng(0)
    sizes = [(5, 4), (6, 3)]
    sources = [random.integers(5, 99, size[0]) for size in sizes]
    targets = [random.integers(5, 99, size[1]) for size in sizes]
    packed = {
        "input_ids": np.concatenate([*sources, [0]])[None],
        "segment_ids": np.array([[1] * 5 + [2] * 6 + [0]]),
        "decoder_input_ids": np.concatenate([*targets, [0]])[None],
        "decoder_segment_ids": np.array([[1] * 4 + [2] * 3 + [0]]),
    }
    together = parity.run(model, packed).logits
    start = 0
    for source, target in zip(sources, targets, strict=True):
        alone = {"input_ids": source[None], "decoder_input_ids": target[None]}
        expected = parity.run(model, alone).logits[0]
        got = together[0, start : start + len(target)]
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
        start += len(target)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_those_of_transformers(kind, tmp_path):
    torch = pytest.importorskip("torch")

    # transformers caches as many layers as the encoder has; a small word table, so that with a
    # tied head the likeliest token is not always the last one again.
    theirs = reference(tmp_path, kind, table=0.03, num_decoder_layers=2)
    theirs.generation_config.eos_token_id = theirs.config.eos_token_id = None
    model = load_model(tmp_path)
    for side in ("left", "right"):
        batch = texts(side)
        tensors = {name: torch.tensor(value).long() for name, value in batch.items()}
        with torch.no_grad():
            expected = theirs.generate(**tensors, do_sample=False, max_new_tokens=64)[:, 1:]
        written = generate_from_source(
            model,
            batch["input_ids"],
            batch["attention_mask"],
            max_new_tokens=64,
            temperature=0,
            multiple=16,
        )
        assert len(np.unique(expected)) > 4
        np.testing.assert_array_equal(written.tokens, expected.numpy())


@pytest.mark.slow
def test_log_probabilities_are_those_of_a_full_pass():
    model = build_model({"family": "t5", **SPEC})
    batch = texts("left")
    written = generate_from_source(
        model,
        batch["input_ids"],
        batch["attention_mask"],
        max_new_tokens=9,
        rng=jax.random.key(0),
        eos_id=list(range(20)),
        pad_id=98,
        multiple=4,
    )
    tokens, lengths = np.asarray(written.tokens), np.asarray(written.lengths)
    assert 0 < lengths.min() < lengths.max() <= 9
    scores = jax.nn.log_softmax(parity.run(model, {**batch, "labels": tokens}).logits)
    own = np.take_along_axis(np.asarray(scores), tokens[..., None], axis=-1)[..., 0]
    real = np.arange(9)[None] < lengths[:, None]
    np.testing.assert_allclose(written.log_probabilities, np.where(real, own, 0), atol=1e-4)
    assert (tokens[~real] == 98).all()


@pytest.mark.slow
def test_dropout_draws_by_key_in_training_only():
    model = build_model({"family": "t5", **SPEC, "dropout_rate": 0.5})
    batch = pair("right")
    quiet = parity.run(model, batch, rng=jax.random.key(0)).logits
    np.testing.assert_array_equal(parity.run(model, batch).logits, quiet)
    drawn = [
        parity.run(model, batch, rng=jax.random.key(seed), train=True).logits for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    assert np.abs(drawn[0] - quiet).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "gatd-gelu"}, "t5.feed_forward_proj: got 'gatd-gelu', expected"),
        ({"relative_attention_max_distance": 4}, "got 8 with a max_distance of 4, expected"),
        ({"dropout_rate": 1.5}, "t5.dropout_rate: got 1.5, expected 0 to 1"),
        ({"num_heads": 0}, "t5.num_heads: got 0, expected at least 1"),
    ],
)
def test_faulty_configs_are_named(fields, message):
    with pytest.raises(ModelError, match=message):
        build_model({"family": "t5", **SPEC, **fields})


@pytest.mark.slow
def test_faulty_batches_and_calls_are_named():
    model = build_model({"family": "t5", **SPEC})
    source = texts("left")
    with pytest.raises(ModelError, match="expected decoder_input_ids or labels of shape"):
        parity.run(model, source)
    with pytest.raises(ModelError, match=r"got 'layers.3.hidden', .*layers.0 to layers.2 with"):
        parity.run(model, pair("left"), ("layers.3.hidden",))
    ids = source["input_ids"]
    with pytest.raises(ConfigError, match="max_new_tokens: got 0"):
        generate_from_source(model, ids, max_new_tokens=0, temperature=0)
    with pytest.raises(ConfigError, match="rng: got None at temperature 1"):
        generate_from_source(model, ids, max_new_tokens=2)
    with pytest.raises(DataError, match="row 1 has no token"):
        generate_from_source(model, ids, ids * [[1], [0], [1]], max_new_tokens=2, temperature=0)
    with pytest.raises(DataError, match="got id 99, expected 0 to 98"):
        generate_from_source(model, ids * 0 + 99, max_new_tokens=2, temperature=0)
    decoder = build_model(parity.spec("gpt2"))
    with pytest.raises(ModelError, match="expected an encoder-decoder"):
        generate_from_source(decoder, ids, max_new_tokens=2, temperature=0)
