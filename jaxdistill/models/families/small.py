"""Small networks for small images or plain features: a perceptron and a convolutional network.

`transformers` has no such models: their folders, of `model_type` `jaxdistill-mlp` and
`jaxdistill-cnn`, are for this package; tensors have the names and layouts of torch's layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.family import Family, Options
from jaxdistill.models.hub.rules import Rule, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.basic import Linear, along_last, dropout, parameter, split_rng
from jaxdistill.models.layers.image_layers import (
    Batch,
    Classifier,
    Conv,
    check_numbers,
    check_taps,
    images_of,
    normals,
)
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

_MANY = float("inf")
_POOLS = ("max", "average", "none")
_NORMS = ("none", "group", "layer")


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """A perceptron of `num_features` inputs (all pixels of an image) and hidden layers."""

    num_features: int = 64
    hidden_sizes: tuple[int, ...] = (128,)
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.0
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(
            "mlp",
            self,
            num_features=(1, _MANY),
            hidden_sizes=(1, _MANY),
            hidden_dropout_prob=(0.0, 1.0),
        )
        activation(self.hidden_act)
        _set_type(self, "jaxdistill-mlp")

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(layers=len(self.hidden_sizes), features=self.num_features)


@dataclasses.dataclass(frozen=True)
class CnnConfig:
    """Convolutions with pooling by 2, then an optional dense layer (`dense_size` 0: none).

    `hidden_sizes` are the channels, `pool` is `max`, `average` or `none`, `normalization` `none`,
    `group` (of `num_groups`) or `layer` (over all of an image).
    """

    image_size: int = 8
    num_channels: int = 1
    hidden_sizes: tuple[int, ...] = (16, 32)
    kernel_size: int = 3
    pool: str = "max"
    normalization: str = "none"
    num_groups: int = 4
    dense_size: int = 0
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.0
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in ("image_size", "num_channels", "hidden_sizes", "kernel_size", "num_groups"):
            check_numbers("cnn", self, **{field: (1, _MANY)})
        check_numbers("cnn", self, dense_size=(0, _MANY), hidden_dropout_prob=(0.0, 1.0))
        for field, known in (("pool", _POOLS), ("normalization", _NORMS)):
            got = getattr(self, field)
            if got not in known:
                raise ModelError(
                    f"cnn.{field}: got {got!r}, expected one of {list(known)}."
                    f"{did_you_mean(got, known)}"
                )
        if not self.hidden_sizes or self.kernel_size % 2 == 0:
            raise ModelError(
                f"cnn: got hidden_sizes {self.hidden_sizes} and kernel_size {self.kernel_size}, "
                "expected at least one convolution and an odd kernel"
            )
        if self.final_size < 1:
            raise ModelError(
                f"cnn.hidden_sizes: got {len(self.hidden_sizes)} convolutions that each halve "
                f"{self.image_size} pixels, expected at least 1 to be left; use fewer or pool=none"
            )
        if self.normalization == "group" and any(c % self.num_groups for c in self.hidden_sizes):
            raise ModelError(
                f"cnn.num_groups: got {self.num_groups} for channels {self.hidden_sizes}, "
                "expected a divisor of each"
            )
        activation(self.hidden_act)
        _set_type(self, "jaxdistill-cnn")

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=len(self.hidden_sizes),
            image=(self.image_size, self.image_size),
            channels=self.num_channels,
        )

    @property
    def final_size(self) -> int:
        """Pixels per side after the last convolution."""
        return self.image_size if self.pool == "none" else self.image_size >> len(self.hidden_sizes)


class GroupNorm(nnx.Module):
    """Normalization over the pixels and the channels of a group, in float32 (Wu and He 2018)."""

    def __init__(self, width: int, groups: int) -> None:
        self.scale = parameter(jnp.ones((width,), jnp.float32), ("embed",))
        self.bias = parameter(jnp.zeros((width,), jnp.float32), ("embed",))
        self.groups = groups

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `[B, H, W, C]`."""
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        normal = (centred * lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        scaled = normal * along_last(self.scale[...], 4) + along_last(self.bias[...], 4)
        return scaled.astype(x.dtype)


class Mlp(nnx.Module):
    """Dense layers, each with activation and dropout, and a classifier."""

    def __init__(self, config: MlpConfig, options: Options, rngs: nnx.Rngs) -> None:
        widths = (config.num_features, *config.hidden_sizes)
        self.layers = nnx.Dict(
            {
                str(i): _dense(widths[i], width, rngs, options)
                for i, width in enumerate(config.hidden_sizes)
            }
        )
        self.head = Classifier(widths[-1], options.num_labels, rngs, stddev=widths[-1] ** -0.5)
        self.config = config

    def __call__(
        self, batch: Batch, *, rng: jax.Array | None, train: bool, taps: Sequence[str]
    ) -> Outputs:
        """Run the model on `features` `[B, F]`, or on `images` `[B, H, W, C]` flattened.

        `layers.{i}.hidden` `[B, D]` are activations before dropout; `hidden` and `pooled` are the
        last one, after it.
        """
        depth = len(self.config.hidden_sizes)
        check_taps(taps, [*(f"layers.{i}.hidden" for i in range(depth)), "pooled"])
        rngs = split_rng(rng if train else None, max(depth, 1))
        hidden, features = _features_of(batch, self.config.num_features), {}
        for i in range(depth):
            hidden = activation(self.config.hidden_act)(self.layers[str(i)](hidden))
            features[f"layers.{i}.hidden"] = hidden
            hidden = dropout(hidden, self.config.hidden_dropout_prob, rngs[i])
        features["pooled"] = hidden
        return self.head(hidden, {tap: features[tap] for tap in taps})


class Cnn(nnx.Module):
    """Convolutions with activation, normalization and pooling, a dense layer, a classifier."""

    def __init__(self, config: CnnConfig, options: Options, rngs: nnx.Rngs) -> None:
        channels, size = (config.num_channels, *config.hidden_sizes), config.kernel_size
        groups = config.num_groups if config.normalization == "group" else 1
        shapes = [(size, size, *pair) for pair in itertools.pairwise(channels)]
        draw = normals(rngs, sum(map(math.prod, shapes)))
        layers, norms = {}, {}
        for i, width in enumerate(config.hidden_sizes):
            stddev = (2.0 / (channels[i] * size * size)) ** 0.5
            layers[str(i)] = Conv(
                channels[i], width, draw, size=size, stddev=stddev, bias=True, dtype=options.dtype
            )
            if config.normalization != "none":
                norms[str(i)] = GroupNorm(width, groups)
        self.layers, self.norms = nnx.Dict(layers), nnx.Dict(norms)
        width = channels[-1] * config.final_size**2
        self.dense = _dense(width, config.dense_size, rngs, options) if config.dense_size else None
        width = config.dense_size or width
        self.head = Classifier(width, options.num_labels, rngs, stddev=width**-0.5)
        self.config = config

    def __call__(
        self, batch: Batch, *, rng: jax.Array | None, train: bool, taps: Sequence[str]
    ) -> Outputs:
        """Run the model on `images` `[B, H, W, C]`.

        `layers.{i}.hidden` are the pooled activations `[B, h, w, c]`, after the last convolution
        that of the dense layer `[B, D]`; `hidden` and `pooled` `[B, D]` are what the classifier
        reads.
        """
        config = self.config
        depth = len(config.hidden_sizes)
        total = depth + (self.dense is not None)
        check_taps(taps, [*(f"layers.{i}.hidden" for i in range(total)), "pooled"])
        rngs = split_rng(rng if train else None, 2)
        hidden = images_of(batch, channels=config.num_channels, size=config.image_size)
        features = {}
        for i in range(depth):
            hidden = self.layers[str(i)](hidden)
            if config.normalization != "none":
                hidden = self.norms[str(i)](hidden)
            hidden = _pool(activation(config.hidden_act)(hidden), config.pool)
            features[f"layers.{i}.hidden"] = hidden
        hidden = hidden.reshape(hidden.shape[0], -1)
        hidden = dropout(hidden, config.hidden_dropout_prob, rngs[0])
        if self.dense is not None:
            hidden = activation(config.hidden_act)(self.dense(hidden))
            features[f"layers.{depth}.hidden"] = hidden
            hidden = dropout(hidden, config.hidden_dropout_prob, rngs[1])
        features["pooled"] = hidden
        return self.head(hidden, {tap: features[tap] for tap in taps})


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs, options: Options) -> Linear:
    stddev = (2.0 / inputs) ** 0.5  # He et al. 2015
    axes = ("embed", "mlp")
    return Linear(inputs, outputs, rngs, axes=axes, stddev=stddev, dtype=options.dtype)


def _pool(x: jax.Array, kind: str) -> jax.Array:
    """Pool `[B, H, W, C]` by 2; an odd last row or column is left out."""
    if kind == "none":
        return x
    batch, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    squares = even.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return squares.max((2, 4)) if kind == "max" else squares.mean((2, 4))


def _features_of(batch: Batch, count: int) -> jax.Array:
    values = batch.get("features", batch.get("images"))
    if values is None or values.ndim < 2:
        got = sorted(batch) if values is None else values.shape
        raise ModelError(f"batch: got {got}, expected features [B, F] or images [B, H, W, C]")
    flat = values.reshape(values.shape[0], -1)
    if flat.shape[1] != count:
        raise ModelError(
            f"batch: got {flat.shape[1]} values per example (shape {values.shape}), expected the "
            f"model's num_features, {count}"
        )
    return flat


def _set_type(config: MlpConfig | CnnConfig, model_type: str) -> None:
    extra: Mapping[str, Any] = {**config.extra, "model_type": model_type}
    object.__setattr__(config, "extra", extra)  # frozen, and not yet in use


def _mlp_rules(config: MlpConfig, options: Options) -> list[Rule]:
    rules = []
    for i in range(len(config.hidden_sizes)):
        rules += linear(f"layers/{i}", f"layers.{i}")
    return rules + linear("head/output", "classifier", group="head")


def _cnn_rules(config: CnnConfig, options: Options) -> list[Rule]:
    rules = []
    for i in range(len(config.hidden_sizes)):
        rules.append(Rule(f"layers/{i}/kernel", f"layers.{i}.weight", (2, 3, 1, 0)))
        rules.append(Rule(f"layers/{i}/bias", f"layers.{i}.bias"))
        if config.normalization != "none":
            rules += norm(f"norms/{i}", f"norms.{i}")
    if config.dense_size:
        rules += linear("dense", "dense")
    return rules + linear("head/output", "classifier", group="head")


MLP = Family(
    name="mlp",
    modality="features",
    paper="Rumelhart et al. 1986, Learning representations by back-propagating errors",
    config=MlpConfig,
    build=Mlp,
    rules=_mlp_rules,
    architectures={"classification": "JaxDistillMlp"},
    model_types=("jaxdistill-mlp",),
)

CNN = Family(
    name="cnn",
    modality="image",
    paper="LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition",
    config=CnnConfig,
    build=Cnn,
    rules=_cnn_rules,
    architectures={"classification": "JaxDistillCnn"},
    model_types=("jaxdistill-cnn",),
)

FAMILIES = (MLP, CNN)
