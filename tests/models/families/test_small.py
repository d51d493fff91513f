"""Small networks against torch's layers, their folders, and learning real digits."""

import dataclasses
import json
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model

CNNS = {
    "max": {"hidden_sizes": [4, 6]},
    "group": {"hidden_sizes": [4, 8], "normalization": "group", "num_groups": 2, "dense_size": 5},
    "layer": {"hidden_sizes": [3], "normalization": "layer", "pool": "average", "kernel_size": 5},
    "none": {"hidden_sizes": [3], "pool": "none", "hidden_act": "tanh"},
}


def forward_of(model):
    return jax.jit(model.apply, static_argnames=("train", "taps"))


def images_of(rows=5, size=8, channels=1):
    images = np.random.default_rng(0).normal(size=(rows, size, size, channels))
    return images.astype(np.float32)


def shifted(model):
    """The model with parameters that all matter: none is 0 or 1."""
    leaves, structure = jax.tree.flatten(model.params)
    draw = np.random.default_rng(1).normal
    moved = [leaf + draw(0, 0.1, leaf.shape).astype(np.float32) for leaf in leaves]
    return dataclasses.replace(model, params=structure.unflatten(moved))


@lru_cache
def digits():
    """Real 8 x 8 digits: training and held-out images and labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16).astype(np.float32)[..., None]
    return train_test_split(
        images, data.target, test_size=0.4, random_state=0, stratify=data.target
    )


def torch_logits(folder, images):
    """Run a saved network with torch's own layers, from nothing but its folder."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    nn = torch.nn.functional
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    act = {"relu": torch.relu, "tanh": torch.tanh}[config["hidden_act"]]

    def pair(name):
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    x = torch.tensor(images)
    if config["model_type"] == "jaxdistill-mlp":
        x = x.flatten(1)
        for i in range(len(config["hidden_sizes"])):
            x = act(nn.linear(x, *pair(f"layers.{i}")))
        return nn.linear(x, *pair("classifier")).numpy()
    x = x.permute(0, 3, 1, 2)
    for i in range(len(config["hidden_sizes"])):
        x = nn.conv2d(x, *pair(f"layers.{i}"), padding=config["kernel_size"] // 2)
        if config["normalization"] != "none":
            groups = config["num_groups"] if config["normalization"] == "group" else 1
            x = nn.group_norm(x, groups, *pair(f"norms.{i}"))
        pool = {"max": nn.max_pool2d, "average": nn.avg_pool2d, "none": lambda x, _: x}
        x = pool[config["pool"]](act(x), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    if config["dense_size"]:
        x = act(nn.linear(x, *pair("dense")))
    return nn.linear(x, *pair("classifier")).numpy()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", CNNS)
def test_cnn_equals_torch_and_returns_from_its_folder(kind, tmp_path):
    size = 7 if kind in ("max", "layer") else 8  # an odd last row is not pooled
    spec = {"family": "cnn", "image_size": size, "num_channels": 2, **CNNS[kind]}
    check_against_torch(spec, images_of(size=size, channels=2), tmp_path)


@pytest.mark.parametrize("hidden_sizes", [[6, 5], []])
def test_mlp_equals_torch_and_returns_from_its_folder(hidden_sizes, tmp_path):
    spec = {"family": "mlp", "num_features": 64, "hidden_sizes": hidden_sizes}
    check_against_torch(spec, images_of(), tmp_path)


def check_against_torch(spec, images, folder):
    model = shifted(build_model(spec, labels=[f"digit {i}" for i in range(3)]))
    outputs = forward_of(model)(model.params, {"images": images}, taps=("pooled",))
    save_model(folder, model)
    np.testing.assert_allclose(outputs.logits, torch_logits(folder, images), atol=1e-4, rtol=0)
    head = outputs.head()
    np.testing.assert_allclose(
        outputs.hidden @ head.weights + head.bias[None], outputs.logits, atol=1e-5
    )
    np.testing.assert_array_equal(outputs.hidden, outputs.features["pooled"])
    again = load_model(folder)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.labels == model.labels
    assert dataclasses.replace(again.config, extra={}) == dataclasses.replace(
        model.config, extra={}
    )
    same = forward_of(again)(again.params, {"images": images})
    np.testing.assert_array_equal(same.logits, outputs.logits)


def test_mlp_reads_features_and_names_its_layers():
    model = build_model({"family": "mlp", "hidden_sizes": [6, 5]}, num_labels=3)
    images = images_of()
    taps = ("layers.0.hidden", "layers.1.hidden")
    outputs = model.apply(model.params, {"features": images.reshape(5, 64)}, taps=taps)
    same = model.apply(model.params, {"images": images})
    np.testing.assert_array_equal(outputs.logits, same.logits)
    assert {tap: outputs.features[tap].shape for tap in taps} == dict(
        zip(taps, [(5, 6), (5, 5)], strict=True)
    )
    np.testing.assert_array_equal(outputs.features["layers.1.hidden"], outputs.hidden)


def test_cnn_names_its_layers():
    model = build_model({"family": "cnn", **CNNS["group"]}, num_labels=3)
    taps = tuple(f"layers.{i}.hidden" for i in range(3))
    outputs = forward_of(model)(model.params, {"images": images_of()}, taps=taps)
    shapes = [outputs.features[tap].shape for tap in taps]
    assert shapes == [(5, 4, 4, 4), (5, 2, 2, 8), (5, 5)]


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_dropout_only_with_a_key_in_training(family):
    spec = {"family": family, "hidden_sizes": [64], "hidden_dropout_prob": 0.5}
    model = build_model(spec, num_labels=3)
    batch, key = {"images": images_of()}, jax.random.key(0)
    forward = forward_of(model)
    calm = forward(model.params, batch).logits
    np.testing.assert_array_equal(forward(model.params, batch, rng=key).logits, calm)
    drawn = forward(model.params, batch, rng=key, train=True)
    assert np.abs(drawn.logits - calm).min() > 1e-4
    full = forward(model.params, batch).hidden
    kept = np.asarray(drawn.hidden) != 0
    np.testing.assert_allclose(np.asarray(drawn.hidden)[kept], 2 * full[kept], rtol=1e-4)
    assert 0.35 < kept.sum() / (np.asarray(full) != 0).sum() < 0.65


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "spec",
    [
        {"family": "mlp", "hidden_sizes": [32]},
        {"family": "cnn", "hidden_sizes": [8, 16], "normalization": "group"},
    ],
)
def test_digits_are_learned(spec):
    images, held_out, labels, held_out_labels = digits()
    model = build_model(spec, num_labels=10)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, images, labels):
        def loss(params):
            logits = model.apply(params, {"images": images}, train=True).logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params, state = model.params, optimizer.init(model.params)
    order = np.random.default_rng(0)
    for _ in range(12):
        for rows in order.permutation(len(images))[:1024].reshape(16, 64):
            params, state = step(params, state, images[rows], labels[rows])
    logits = forward_of(model)(params, {"images": held_out}).logits
    accuracy = (np.argmax(logits, -1) == held_out_labels).mean()
    assert accuracy > 0.9


def test_bfloat16_stays_near():
    spec = {"family": "cnn", **CNNS["group"]}
    near = partial(np.testing.assert_allclose, atol=0.1)
    outputs = [
        forward_of(model)(model.params, {"images": images_of()})
        for model in (build_model(spec, num_labels=3, dtype=d) for d in ("float32", "bfloat16"))
    ]
    assert outputs[1].logits.dtype == jnp.float32
    near(outputs[1].logits, outputs[0].logits)


def test_errors_name_what_was_got_and_expected():
    model = build_model({"family": "mlp"}, num_labels=3)
    with pytest.raises(ModelError, match=r"got 49 values per example .* num_features, 64"):
        model.apply(model.params, {"images": images_of(size=7)})
    with pytest.raises(ModelError, match="expected features"):
        model.apply(model.params, {"input_ids": np.zeros((2, 3), np.int32)})
    for change, message in (
        ({"pool": "maximum"}, "Did you mean 'max'"),
        ({"hidden_sizes": [4] * 4}, "4 convolutions that each halve 8 pixels"),
        ({"hidden_sizes": []}, "at least one convolution"),
        ({"kernel_size": 2}, "an odd kernel"),
        ({"hidden_sizes": [6], "normalization": "group"}, "expected a divisor of each"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob: got 1\.5"),
    ):
        with pytest.raises(ModelError, match=message):
            build_model({"family": "cnn", **change}, num_labels=3)
