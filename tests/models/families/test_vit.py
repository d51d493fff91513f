"""ViT against transformers on PyTorch: outputs, gradients, options and folders."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.errors import ModelError
from jaxdistill.models.assembly import assemble
from jaxdistill.models.families.vit import VIT
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import build_model, load_model, save_model

torch = pytest.importorskip("torch")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 3,
}
TAPS = (
    "embeddings",
    *(f"layers.{i}.hidden" for i in range(3)),
    *(f"layers.{i}.attention" for i in range(3)),
    "pooled",
)


def images_of(rows=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 12, 12, 3)).astype(np.float32)


def theirs(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def reference(folder, kind="ViTForImageClassification", **config):
    """A random transformers model, saved."""
    import transformers

    torch.manual_seed(1)
    chosen = transformers.ViTConfig(**SIZES, num_labels=3, attn_implementation="eager", **config)
    model = getattr(transformers, kind)(chosen).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


@lru_cache
def fresh():
    """A small model with fresh parameters, built once: compiling the generators takes seconds."""
    return build_model({"family": "vit", **SIZES, "initializer_range": 0.3}, num_labels=3)


def rebuilt(config=None, **options):
    """The same small model built with other options, or a changed config."""
    model = fresh()
    config = dataclasses.replace(model.config, **(config or {}))
    leaves = flatten({"params": model.params})
    return assemble(VIT, config, dataclasses.replace(model.options, **options), leaves)


def forward_of(model):
    return jax.jit(model.apply, static_argnames=("train", "taps"))


@pytest.mark.mostly_slow
@pytest.mark.parametrize("config", [{}, {"qkv_bias": False, "hidden_act": "gelu_new"}])
def test_outputs_equal_transformers(config, tmp_path):
    torch_model = reference(tmp_path, **config)
    model = load_model(tmp_path)
    images = images_of()
    with torch.no_grad():
        expected = torch_model(theirs(images), output_hidden_states=True, output_attentions=True)
    near = partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    forward = forward_of(model)
    # Without taps the last layer computes the first token only.
    near(forward(model.params, {"images": images}).logits, expected.logits)
    outputs = forward(model.params, {"images": images}, taps=TAPS)
    near(outputs.logits, expected.logits)
    for tap, state in zip(TAPS, expected.hidden_states, strict=False):
        near(outputs.features[tap], state)
        assert np.std(state.numpy()) > 0.1
    for i, probabilities in enumerate(expected.attentions):
        near(outputs.features[f"layers.{i}.attention"], probabilities)
    assert len(expected.hidden_states) == 4
    head = outputs.head()
    near(outputs.hidden @ head.weights + head.bias[None], outputs.logits)
    near(outputs.hidden, outputs.features["pooled"])


@pytest.mark.slow
def test_gradients_equal_transformers(tmp_path):
    torch_model = reference(tmp_path / "model")
    model = load_model(tmp_path / "model")
    images, labels = images_of(6), np.array([0, 1, 2, 0, 1, 2])
    logits = torch_model(theirs(images)).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    for parameter in torch_model.parameters():
        parameter.data = parameter.grad
    torch_model.save_pretrained(tmp_path / "gradients")  # under the names and layouts of a folder
    expected = flatten(load_model(tmp_path / "gradients").params)

    def loss(params):
        logits = model.apply(params, {"images": images}).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    ours = flatten(jax.jit(jax.grad(loss))(model.params))
    assert set(ours) == set(expected)
    for path, gradient in expected.items():
        scale = float(np.abs(gradient).max())
        if path == "layers/attention/key/bias":  # softmax ignores what all keys share
            np.testing.assert_allclose(ours[path], 0, atol=1e-5)
            continue
        assert scale > 1e-4, path
        np.testing.assert_allclose(ours[path], gradient, atol=1e-3 * scale, rtol=0, err_msg=path)


def test_folder_there_and_back(tmp_path):
    from transformers import AutoModelForImageClassification

    torch_model = reference(tmp_path / "first")
    model = load_model(tmp_path / "first")
    save_model(tmp_path / "second", model)
    back, report = AutoModelForImageClassification.from_pretrained(
        tmp_path / "second", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values())
    images = theirs(images_of())
    with torch.no_grad():
        torch.testing.assert_close(back(images).logits, torch_model(images).logits, rtol=0, atol=0)
    again = load_model(tmp_path / "second")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.config.image_size == 12


def test_a_bare_model_keeps_its_pooler(tmp_path):
    from transformers import AutoModel

    torch_model = reference(tmp_path / "bare", "ViTModel", pooler_output_size=5)
    model = load_model(tmp_path / "bare", head=None)
    images = images_of()
    outputs = forward_of(model)(model.params, {"images": images}, taps=("pooled",))
    save_model(tmp_path / "again", model)
    back, report = AutoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(report.values())
    for other in (torch_model, back):
        with torch.no_grad():
            expected = other(theirs(images))
        np.testing.assert_allclose(
            outputs.features["pooled"], expected.pooler_output, atol=1e-4, rtol=0
        )
        np.testing.assert_allclose(outputs.hidden, expected.last_hidden_state, atol=1e-4, rtol=0)
    classifier = load_model(tmp_path / "bare", num_labels=4)
    assert set(classifier.initialized) == {"head/output/kernel", "head/output/bias"}


@pytest.mark.slow
def test_mean_pooling_reads_the_patches():
    model = rebuilt(pooling="mean")
    images = images_of()
    bare = rebuilt(head=None, pooler=False)
    hidden = forward_of(bare)(bare.params, {"images": images}).hidden
    outputs = forward_of(model)(model.params, {"images": images})
    np.testing.assert_allclose(outputs.hidden, hidden[:, 1:].mean(1), atol=1e-5)
    tapped = rebuilt(head=None, pooling="mean")
    outputs = forward_of(tapped)(tapped.params, {"images": images}, taps=("pooled",))
    np.testing.assert_allclose(outputs.features["pooled"], hidden[:, 1:].mean(1), atol=1e-5)


@pytest.mark.slow
def test_dropout_only_with_a_key_in_training():
    model = rebuilt({"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5})
    batch, key = {"images": images_of()}, jax.random.key(0)
    forward = forward_of(model)
    calm = forward(model.params, batch).logits
    np.testing.assert_array_equal(forward(model.params, batch, rng=key).logits, calm)
    dropped = forward(model.params, batch, rng=key, train=True, taps=("embeddings",))
    assert 0.35 < np.mean(dropped.features["embeddings"] == 0) < 0.65
    first = dropped.logits
    again = forward(model.params, batch, rng=key, train=True).logits
    other = forward(model.params, batch, rng=jax.random.key(1), train=True).logits
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert np.abs(first - calm).min() > 1e-4
    assert np.abs(first - other).min() > 1e-4


@pytest.mark.slow
def test_recomputing_changes_no_gradient_and_bfloat16_stays_near():
    batch = {"images": images_of()}

    def gradients(model):
        def loss(params):
            return jnp.square(model.apply(params, batch, train=True).logits).sum()

        return jax.jit(jax.grad(loss))(fresh().params)

    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(near, gradients(rebuilt(remat=True)), gradients(fresh()))
    half = forward_of(rebuilt(dtype="bfloat16"))(fresh().params, batch)
    assert half.logits.dtype == jnp.float32
    whole = forward_of(fresh())(fresh().params, batch)
    np.testing.assert_allclose(half.logits, whole.logits, atol=0.1)


def test_fresh_parameters_have_the_spread_of_the_config():
    flat = flatten(fresh().params)
    for path, leaf in flat.items():
        if path.endswith("bias"):
            np.testing.assert_array_equal(leaf, 0)
        elif path.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1)
        elif leaf.size > 100:
            assert 0.25 < np.std(leaf) < 0.35, path
    layers = flat["layers/up/kernel"]
    assert np.abs(layers[0] - layers[1]).max() > 0.1


def test_errors_name_what_was_got_and_expected():
    model = fresh()
    with pytest.raises(ModelError, match="got 16 x 16 pixels, expected 12 x 12"):
        model.apply(model.params, {"images": np.zeros((1, 16, 16, 3), np.float32)})
    with pytest.raises(ModelError, match=r"Did you mean 'layers.2.hidden'"):
        model.apply(model.params, {"images": images_of()}, taps=("layers.3.hidden",))
    with pytest.raises(ModelError, match="image_size: got 12 with patch_size 5"):
        build_model({"family": "vit", **SIZES, "patch_size": 5}, num_labels=2)
    with pytest.raises(ModelError, match=r"hidden_dropout_prob: got 2\.0, expected 0\.0 to 1\.0"):
        build_model({"family": "vit", **SIZES, "hidden_dropout_prob": 2}, num_labels=2)
