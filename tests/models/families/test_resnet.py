"""ResNet against transformers on PyTorch: outputs, gradients, batch statistics and folders."""

import dataclasses
import json
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.errors import ModelError
from jaxdistill.models.assembly import assemble
from jaxdistill.models.families.resnet import RESNET, tie_batch_statistics
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import build_model, load_model, save_model

torch = pytest.importorskip("torch")

KINDS = {
    "basic": {"layer_type": "basic", "hidden_act": "relu"},
    "bottleneck": {"layer_type": "bottleneck", "downsample_in_first_stage": True},
    "early": {"layer_type": "bottleneck", "downsample_in_bottleneck": True, "hidden_act": "gelu"},
}
SPEC = {
    "family": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [8],
    "depths": [1],
    "layer_type": "basic",
}


@lru_cache
def fresh():
    """A small model with random parameters."""
    return build_model(SPEC, num_labels=3)


def rebuilt(**options):
    """The same small model built with other options."""
    model = fresh()
    leaves = flatten({"params": model.params, "model_state": model.model_state})
    return assemble(RESNET, model.config, dataclasses.replace(model.options, **options), leaves)


def forward_of(model):
    return jax.jit(model.apply, static_argnames=("train", "taps"))


def images_of(rows=4, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, size, size, 3)).astype(np.float32)


def theirs(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def reference(kind, folder):
    """A random transformers model whose every parameter and statistic matters, saved."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(1)
    config = ResNetConfig(
        embedding_size=6, hidden_sizes=[16, 24], depths=[2, 1], num_labels=3, **KINDS[kind]
    )
    model = ResNetForImageClassification(config).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("normalization.weight", "running_var")):
            tensor.data.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.data.fill_(7)
        elif "bias" in name or "running_mean" in name:
            tensor.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


def by_their_names(model, params):
    """Lay out arrays shaped like our parameters under the names of transformers."""
    rules = RESNET.rules(model.config, model.options)
    flat = flatten(params)
    return {r.theirs: r.to_theirs(np.asarray(flat[r.ours])) for r in rules if r.ours in flat}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_transformers(kind, tmp_path):
    torch_model = reference(kind, tmp_path)
    model = load_model(tmp_path)
    images = images_of()
    with torch.no_grad():
        expected = torch_model(theirs(images), output_hidden_states=True)
        pooled = torch_model.resnet(theirs(images)).pooler_output[:, :, 0, 0]
    taps = ("embeddings", "layers.0.hidden", "layers.1.hidden", "pooled")
    outputs = forward_of(model)(
        model.params, {"images": images}, taps=taps, model_state=model.model_state
    )
    np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.features["pooled"], pooled, atol=1e-4, rtol=0)
    for tap, state in zip(taps, expected.hidden_states, strict=False):
        ours = np.asarray(outputs.features[tap]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, state, atol=1e-4, rtol=0)
        assert np.std(ours) > 0.1
    assert outputs.model_state is None
    head = outputs.head()
    np.testing.assert_allclose(
        outputs.hidden @ head.weights + head.bias[None], outputs.logits, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "train"), [("basic", True), ("bottleneck", False), ("early", True)]
)
def test_gradients_equal_transformers(kind, train, tmp_path):
    torch_model = reference(kind, tmp_path).train(train)
    model = load_model(tmp_path)
    images, labels = images_of(6), np.array([0, 1, 2, 0, 1, 2])
    # The gradients of oneDNN's small convolutions write past their arrays on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        torch.nn.functional.cross_entropy(
            torch_model(theirs(images)).logits, torch.tensor(labels)
        ).backward()

    def loss(params):
        batch = {"images": images}
        outputs = model.apply(params, batch, train=train, model_state=model.model_state)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean()

    ours = by_their_names(model, jax.jit(jax.grad(loss))(model.params))
    named = dict(torch_model.named_parameters())
    assert set(ours) == set(named)
    for name, parameter in named.items():
        gradient = parameter.grad.numpy()
        scale = np.abs(gradient).max()
        assert scale > 1e-4, name
        np.testing.assert_allclose(ours[name], gradient, atol=1e-3 * scale, rtol=0, err_msg=name)


def test_statistics_equal_torch_after_two_passes(tmp_path):
    torch_model = reference("basic", tmp_path).train()
    model = load_model(tmp_path)
    state = model.model_state
    forward = forward_of(model)
    for seed in (3, 4):
        images = 2 * images_of(5, seed=seed) + 1
        with torch.no_grad():
            expected = torch_model(theirs(images)).logits
        outputs = forward(model.params, {"images": images}, model_state=state, train=True)
        state = outputs.model_state
        np.testing.assert_allclose(outputs.logits, expected, atol=1e-4, rtol=0)
    assert jax.tree.structure(state) == jax.tree.structure(model.model_state)
    rules = RESNET.rules(model.config, model.options)
    flat, buffers = flatten(state), dict(torch_model.named_buffers())
    names = {rule.theirs: rule.ours for rule in rules if rule.collection == "model_state"}
    assert set(names) == set(buffers)
    for name, buffer in buffers.items():
        np.testing.assert_allclose(flat[names[name]], buffer, atol=1e-5, rtol=1e-5, err_msg=name)
    assert int(flat["embedder/normalization/count"]) == 9


def test_rows_of_weight_zero_change_nothing():
    model, images = fresh(), images_of(6)
    images[1], images[4] = np.nan, 1e4
    weight = np.array([1, 0, 0.5, 1, 0, 1], np.float32)
    run = partial(forward_of(model), model.params, train=True, model_state=model.model_state)
    padded = run({"images": images, "weight": weight})
    sliced = run({"images": images[weight > 0]})
    for ours, alone in zip(
        jax.tree.leaves(padded.model_state), jax.tree.leaves(sliced.model_state), strict=True
    ):
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded.logits[weight > 0], sliced.logits, rtol=1e-4, atol=1e-5)


def test_a_batch_without_valid_rows_keeps_the_statistics():
    model = fresh()
    state = jax.tree.map(lambda leaf: leaf + 1, model.model_state)
    batch = {"images": images_of(2), "weight": np.zeros(2, np.float32)}
    forward = forward_of(model)
    outputs = forward(model.params, batch, train=True, model_state=state)
    alone = forward(model.params, batch, model_state=state)
    jax.tree.map(np.testing.assert_array_equal, outputs.model_state, state)
    np.testing.assert_allclose(outputs.logits, alone.logits, rtol=1e-6)


@pytest.mark.slow
def test_tied_statistics_under_pmap_are_those_of_the_whole_batch():
    model = fresh()
    tied = tie_batch_statistics(model, "data")
    images, labels = images_of(16, size=16), np.arange(16) % 3
    weight = np.ones(16, np.float32)
    weight[[3, 6, 7]] = 0  # the devices hold 2, 1 and 0 valid rows

    def loss(apply, params, images, labels, weight):
        batch = {"images": images, "weight": weight}
        outputs = apply(params, batch, train=True, model_state=model.model_state)
        each = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return (each * weight).sum() / 13, outputs.model_state

    def spread(apply):
        def one(*part):
            call = jax.grad(partial(loss, apply), has_aux=True)
            gradients, state = call(model.params, *part)
            return jax.lax.psum(gradients, "data"), jax.lax.pmax(state, "data")

        parts = [leaf.reshape(8, 2, *leaf.shape[1:]) for leaf in (images, labels, weight)]
        return jax.tree.map(lambda leaf: leaf[0], jax.pmap(one, "data")(*parts))

    whole = jax.grad(partial(loss, model.apply), has_aux=True)
    gradients, state = jax.jit(whole)(model.params, images, labels, weight)
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    spread_gradients, spread_state = spread(tied.apply)
    jax.tree.map(near, spread_state, state)
    jax.tree.map(near, spread_gradients, gradients)
    with pytest.raises(AssertionError):
        jax.tree.map(near, spread(model.apply)[1], state)


@pytest.mark.parametrize("kind", KINDS)
def test_folder_there_and_back(kind, tmp_path):
    from transformers import AutoModelForImageClassification

    torch_model = reference(kind, tmp_path / "first")
    model = load_model(tmp_path / "first")
    averaged = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.model_state)
    save_model(tmp_path / "second", dataclasses.replace(model, model_state=averaged))
    back, report = AutoModelForImageClassification.from_pretrained(
        tmp_path / "second", output_loading_info=True
    )
    assert not any(report.values())
    images = theirs(images_of())
    with torch.no_grad():
        torch.testing.assert_close(back(images).logits, torch_model(images).logits, rtol=0, atol=0)
    for name, buffer in torch_model.named_buffers():
        assert torch.equal(back.get_buffer(name), buffer), name
    again = load_model(tmp_path / "second")
    for collection in ("params", "model_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(again, collection), getattr(model, collection)
        )
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["depths"] == [2, 1]


def test_a_bare_model_is_read_and_written(tmp_path):
    from transformers import AutoModel

    torch_model = reference("basic", tmp_path / "whole").resnet
    torch_model.save_pretrained(tmp_path / "bare")
    model = load_model(tmp_path / "bare", head=None)
    images = images_of()
    outputs = forward_of(model)(model.params, {"images": images}, model_state=model.model_state)
    save_model(tmp_path / "again", model)
    back, report = AutoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(report.values())
    for other in (torch_model, back):
        with torch.no_grad():
            pooled = other(theirs(images)).pooler_output[:, :, 0, 0]
        np.testing.assert_allclose(outputs.hidden, pooled, atol=1e-4, rtol=0)
    classifier = load_model(tmp_path / "bare", num_labels=5)
    assert set(classifier.initialized) == {"head/output/kernel", "head/output/bias"}


@pytest.mark.slow
def test_recomputing_changes_no_gradient_and_bfloat16_stays_near():
    plain = fresh()
    images = images_of(4)

    def gradients(model):
        def loss(params):
            outputs = model.apply(
                params, {"images": images}, train=True, model_state=model.model_state
            )
            return jnp.square(outputs.logits).sum(), outputs

        return jax.jit(jax.grad(loss, has_aux=True))(plain.params)

    expected, outputs = gradients(plain)
    again, remat = gradients(rebuilt(remat=True))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), again, expected)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5), remat.model_state, outputs.model_state
    )
    _, half = gradients(rebuilt(dtype="bfloat16"))
    assert half.logits.dtype == jnp.float32
    dtypes = partial(jax.tree.map, lambda leaf: leaf.dtype)
    assert dtypes(half.model_state) == dtypes(plain.model_state)
    np.testing.assert_allclose(half.logits, outputs.logits, atol=0.1)


def test_errors_name_what_was_got_and_expected():
    model = fresh()
    run = partial(model.apply, model.params, model_state=model.model_state)
    with pytest.raises(ModelError, match=r"expected 3 channels"):
        run({"images": images_of()[..., :1]})
    with pytest.raises(ModelError, match=r"images of shape \[B, H, W, C\]"):
        run({"input_ids": np.zeros((2, 3), np.int32)})
    with pytest.raises(ModelError, match=r"Did you mean 'layers.0.hidden'"):
        run({"images": images_of()}, taps=("layer.0.hidden",))
    with pytest.raises(ModelError, match="model_state: got None"):
        model.apply(model.params, {"images": images_of()})
    with pytest.raises(ModelError, match="Did you mean 'bottleneck'"):
        build_model({**SPEC, "layer_type": "bottlenek"}, num_labels=3)
    with pytest.raises(ModelError, match="one of each per stage"):
        build_model({**SPEC, "depths": [1, 1]}, num_labels=3)
    with pytest.raises(ModelError, match=r"depths: got \(0,\), expected at least 1"):
        build_model({**SPEC, "depths": [0]}, num_labels=3)
    with pytest.raises(ModelError, match="got a model of family 'mlp'"):
        tie_batch_statistics(dataclasses.replace(model, family="mlp"), "data")
