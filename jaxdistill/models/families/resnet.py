"""ResNet image classifiers: the architecture, statistics and weights of transformers' ResNet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.assembly import assemble
from jaxdistill.models.family import Family, Model, Options
from jaxdistill.models.hub.rules import Rule, flatten, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.image_layers import (
    Batch,
    BatchNorm,
    Classifier,
    Conv,
    Draw,
    check_numbers,
    check_taps,
    images_of,
    normals,
)
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

REDUCTION = 4  # a bottleneck is this many times narrower inside
_KINDS = ("basic", "bottleneck")
_MANY = float("inf")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The fields of a ResNet `config.json` that shape the model; `extra` is the whole file."""

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        least = REDUCTION if self.layer_type == "bottleneck" else 1
        check_numbers(
            "resnet",
            self,
            num_channels=(1, _MANY),
            embedding_size=(1, _MANY),
            hidden_sizes=(least, _MANY),
            depths=(1, _MANY),
        )
        if len(self.hidden_sizes) != len(self.depths) or not self.depths:
            raise ModelError(
                f"resnet: got hidden_sizes {self.hidden_sizes} and depths {self.depths}, "
                "expected one of each per stage"
            )
        if self.layer_type not in _KINDS:
            raise ModelError(
                f"resnet.layer_type: got {self.layer_type!r}, expected one of {list(_KINDS)}."
                f"{did_you_mean(self.layer_type, _KINDS)}"
            )
        activation(self.hidden_act)

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(layers=len(self.depths), channels=self.num_channels)


class ConvNorm(nnx.Module):
    """Convolution, batch normalization and, unless `act` is None, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        draw: Draw,
        *,
        size: int,
        stride: int = 1,
        act: str | None,
        batch_axis: str | None,
        dtype: DTypeLike,
    ) -> None:
        stddev = (2.0 / (outputs * size * size)) ** 0.5  # He et al. 2015, fan out
        self.convolution = Conv(
            inputs, outputs, draw, size=size, stddev=stddev, stride=stride, dtype=dtype
        )
        self.normalization = BatchNorm(outputs, batch_axis=batch_axis)
        self.act = act

    def __call__(self, x: jax.Array, valid: jax.Array | None, train: bool) -> jax.Array:
        """Map `[B, H, W, in]` to `[B, H / stride, W / stride, out]`."""
        y = self.normalization(self.convolution(x), valid, train)
        return y if self.act is None else activation(self.act)(y)


class Block(nnx.Module):
    """A residual block, basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) (He et al. 2016)."""

    def __init__(
        self,
        config: ResNetConfig,
        draw: Draw,
        inputs: int,
        outputs: int,
        stride: int,
        **how: Any,
    ) -> None:
        shapes = _convolutions(config, inputs, outputs, stride)
        # transformers has ReLU inside of a block whatever hidden_act is.
        acts = ["relu"] * (len(shapes) - 1) + [None]
        self.layer = nnx.Dict(
            {
                str(i): ConvNorm(read, write, draw, size=size, stride=step, act=act, **how)
                for i, ((read, write, size, step), act) in enumerate(zip(shapes, acts, strict=True))
            }
        )
        self.shortcut = (
            ConvNorm(inputs, outputs, draw, size=1, stride=stride, act=None, **how)
            if _has_shortcut(inputs, outputs, stride)
            else None
        )
        self.act = config.hidden_act

    def __call__(self, x: jax.Array, valid: jax.Array | None, train: bool) -> jax.Array:
        """Map `[B, H, W, in]` to `[B, H / stride, W / stride, out]`."""
        y = x
        for i in range(len(self.layer)):
            y = self.layer[str(i)](y, valid, train)
        residual = x if self.shortcut is None else self.shortcut(x, valid, train)
        return activation(self.act)(y + residual)


class ResNet(nnx.Module):
    """A ResNet with or without its classifier; a layer, in taps, is a stage.

    Blocks differ in width and stride, so they are not stacked: `Options.unroll` has no effect.
    """

    def __init__(
        self,
        config: ResNetConfig,
        options: Options,
        rngs: nnx.Rngs,
        *,
        batch_axis: str | None = None,
    ) -> None:
        how: dict[str, Any] = {"batch_axis": batch_axis, "dtype": options.dtype}
        draw = normals(rngs, sum(math.prod(shape) for *_, shape in _places(config)))
        width = config.embedding_size
        self.embedder = ConvNorm(
            config.num_channels, width, draw, size=7, stride=2, act=config.hidden_act, **how
        )
        self.stages = nnx.Dict(
            {
                str(i): nnx.Dict(
                    {str(j): Block(config, draw, *shape, **how) for j, shape in enumerate(blocks)}
                )
                for i, blocks in enumerate(_stages(config))
            }
        )
        last = config.hidden_sizes[-1]
        self.head = (
            Classifier(last, options.num_labels, rngs, stddev=(3 * last) ** -0.5)
            if options.head == "classification"
            else None
        )
        self.channels = config.num_channels
        self.remat = options.remat

    def __call__(
        self, batch: Batch, *, rng: jax.Array | None, train: bool, taps: Sequence[str]
    ) -> Outputs:
        """Run the model on `images` `[B, H, W, C]`.

        `hidden` is the average over pixels `[B, D]`; taps are `embeddings` and `layers.{i}.hidden`,
        `[B, h, w, d]`, and `pooled` `[B, D]`. Training returns the new statistics as `model_state`.
        """
        depth = len(self.stages)
        check_taps(taps, ["embeddings", *(f"layers.{i}.hidden" for i in range(depth)), "pooled"])
        images = images_of(batch, channels=self.channels)
        valid = batch["weight"] > 0 if "weight" in batch else None
        hidden = _max_pool(self.embedder(images, valid, train))
        features = {"embeddings": hidden}
        for i in range(depth):
            stage = self.stages[str(i)]
            for j in range(len(stage)):
                hidden = self._run(stage[str(j)], hidden, valid, train)
            features[f"layers.{i}.hidden"] = hidden
        features["pooled"] = hidden.astype(jnp.float32).mean((1, 2))
        asked = {tap: features[tap] for tap in taps}
        outputs = (
            Outputs(hidden=features["pooled"], features=asked)
            if self.head is None
            else self.head(features["pooled"], asked)
        )
        statistics = nnx.to_pure_dict(nnx.state(self, nnx.BatchStat)) if train else None
        return dataclasses.replace(outputs, model_state=statistics)

    def _run(
        self, block: Block, hidden: jax.Array, valid: jax.Array | None, train: bool
    ) -> jax.Array:
        def call(block: Block, hidden: jax.Array) -> jax.Array:
            return block(hidden, valid, train)

        return nnx.remat(call)(block, hidden) if self.remat else call(block, hidden)


def _max_pool(x: jax.Array) -> jax.Array:
    """Pool 3x3 with stride 2, as the stem does: `[B, H, W, C]` to about half the size."""
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)


def tie_batch_statistics(model: Model, axis: str) -> Model:
    """Return a ResNet whose training statistics are those of the batch over all of a mapped axis.

    Needed where each device sees its share only, under `jax.pmap` or `shard_map` with that axis
    name; under `jit` on a mesh the statistics are of the whole batch anyway.

    Raises:
      ModelError: the model is not a ResNet.
    """
    if model.family != RESNET.name or model.options is None:
        raise ModelError(
            f"batch statistics: got a model of family {model.family!r}, expected {RESNET.name!r}"
        )
    tied = dataclasses.replace(RESNET, build=partial(ResNet, batch_axis=axis))
    leaves = flatten({"params": model.params, "model_state": model.model_state})
    whole = assemble(tied, model.config, model.options, leaves)
    return dataclasses.replace(model, apply=whole.apply)


def _stages(config: ResNetConfig) -> list[list[tuple[int, int, int]]]:
    """Per stage and block: inputs, outputs and stride."""
    stages, inputs = [], config.embedding_size
    for i, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        stride = 2 if i > 0 or config.downsample_in_first_stage else 1
        stages.append([(inputs, outputs, stride), *[(outputs, outputs, 1)] * (depth - 1)])
        inputs = outputs
    return stages


def _convolutions(
    config: ResNetConfig, inputs: int, outputs: int, stride: int
) -> list[tuple[int, int, int, int]]:
    """Per convolution of a block: inputs, outputs, size and stride."""
    if config.layer_type == "basic":
        return [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
    inner = outputs // REDUCTION
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return [(inputs, inner, 1, first), (inner, inner, 3, second), (inner, outputs, 1, 1)]


def _has_shortcut(inputs: int, outputs: int, stride: int) -> bool:
    return inputs != outputs or stride != 1


def _places(config: ResNetConfig) -> Iterator[tuple[str, str, tuple[int, int, int, int]]]:
    """Yield our path, their name and the kernel's shape of every convolution."""
    yield (
        "embedder",
        "resnet.embedder.embedder",
        (7, 7, config.num_channels, config.embedding_size),
    )
    for i, blocks in enumerate(_stages(config)):
        for j, shape in enumerate(blocks):
            ours, theirs = f"stages/{i}/{j}", f"resnet.encoder.stages.{i}.layers.{j}"
            for k, (read, write, size, _) in enumerate(_convolutions(config, *shape)):
                yield f"{ours}/layer/{k}", f"{theirs}.layer.{k}", (size, size, read, write)
            if _has_shortcut(*shape):
                yield f"{ours}/shortcut", f"{theirs}.shortcut", (1, 1, *shape[:2])


class _Counter(Rule):
    """An int64 without axes, whatever type an average over replicas has left it in."""

    def to_theirs(self, part: np.ndarray) -> np.ndarray:
        return np.asarray(part, np.int64)


def _rules(config: ResNetConfig, options: Options) -> list[Rule]:
    rules = []
    for ours, theirs, _ in _places(config):
        normal, their = f"{ours}/normalization", f"{theirs}.normalization"
        rules.append(
            Rule(f"{ours}/convolution/kernel", f"{theirs}.convolution.weight", (2, 3, 1, 0))
        )
        rules += norm(normal, their)
        rules += [
            Rule(f"{normal}/mean", f"{their}.running_mean", collection="model_state"),
            Rule(f"{normal}/var", f"{their}.running_var", collection="model_state"),
            _Counter(f"{normal}/count", f"{their}.num_batches_tracked", collection="model_state"),
        ]
    if options.head == "classification":
        rules += linear("head/output", "classifier.1", group="head")
    return rules


RESNET = Family(
    name="resnet",
    modality="image",
    paper="He et al. 2016, Deep Residual Learning for Image Recognition",
    config=ResNetConfig,
    build=ResNet,
    rules=_rules,
    architectures={"classification": "ResNetForImageClassification", None: "ResNetModel"},
    prefix="resnet",
    head_tensors={"classification": r"classifier\..*"},
)

FAMILIES = (RESNET,)
