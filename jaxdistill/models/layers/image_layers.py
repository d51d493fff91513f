"""What the image families share: batches, taps, convolutions and the final projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.layers.basic import Linear, along_last, parameter
from jaxdistill.models.outputs import Head, Outputs

Batch = Mapping[str, jax.Array]
Draw = Callable[[tuple[int, ...]], jax.Array]
MOMENTUM = 0.1  # torch's convention: the share of the new batch
EPSILON = 1e-5


def images_of(batch: Batch, *, channels: int, size: int | None = None) -> jax.Array:
    """Return `images` `[B, H, W, C]`.

    Raises:
      ModelError: they are missing, have other channels, or another size where `size` is given.
    """
    images = batch.get("images")
    if images is None or images.ndim != 4:
        got = sorted(batch) if images is None else images.shape
        raise ModelError(f"batch: got {got}, expected images of shape [B, H, W, C]")
    if images.shape[3] != channels:
        raise ModelError(
            f"images: got shape {images.shape}, expected {channels} channels in the last axis; "
            "set num_channels of the model to that of the data"
        )
    if size is not None and images.shape[1:3] != (size, size):
        raise ModelError(
            f"images: got {images.shape[1]} x {images.shape[2]} pixels, expected {size} x {size}, "
            "the model's image_size; set data.image_size"
        )
    return images


def check_numbers(name: str, config: object, **fields: tuple[float, float]) -> None:
    """Raise ModelError where a field, or a member of it, is outside of its closed interval."""
    for field, (low, high) in fields.items():
        got = getattr(config, field)
        for value in got if isinstance(got, tuple) else (got,):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            whole = type(low) is float or isinstance(value, int)
            if not (number and whole and low <= value <= high):
                expected = f"at least {low}" if high == float("inf") else f"{low} to {high}"
                raise ModelError(f"{name}.{field}: got {got!r}, expected {expected}")


def check_taps(taps: Sequence[str], known: Sequence[str]) -> None:
    """Raise ModelError for a tap that is not among those known."""
    for tap in taps:
        if tap not in known:
            raise ModelError(
                f"taps: got {tap!r}, expected one of {list(known)}.{did_you_mean(tap, known)}"
            )


def normals(rngs: nnx.Rngs, count: int) -> Draw:
    """Return a function that hands out `count` standard normal float32 draws, shape by shape.

    One draw for all layers, since compiling one generator per layer takes minutes for a deep model.
    """
    values = jax.random.normal(rngs.params(), (count,), jnp.float32)
    used = 0

    def draw(shape: tuple[int, ...]) -> jax.Array:
        nonlocal used
        start, used = used, used + math.prod(shape)
        return values[start:used].reshape(shape)

    return draw


class Conv(nnx.Module):
    """A square convolution, kernel `[k, k, in, out]`, padded by `k // 2` on every side."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        draw: Draw,
        *,
        size: int,
        stddev: float,
        stride: int = 1,
        bias: bool = False,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        kernel = draw((size, size, inputs, outputs)) * stddev
        self.kernel = parameter(kernel, (None, None, None, "embed"))
        zeros = jnp.zeros((outputs,), jnp.float32)
        self.bias = parameter(zeros, ("embed",)) if bias else None
        self.size = size
        self.stride = stride
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve `[B, H, W, in]` to `[B, ceil(H / stride), ceil(W / stride), out]`."""
        pad = self.size // 2
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.bias is None:
            return y
        return y + along_last(self.bias[...].astype(self.dtype), 4)


class BatchNorm(nnx.Module):
    """Batch normalization over valid rows, in float32, with torch's running statistics.

    `y = (x - mean) / sqrt(var + eps) * scale + bias` (Ioffe and Szegedy 2015, section 3). Training
    normalizes by the biased variance of the batch and stores the unbiased one. Rows whose weight
    is 0 count for neither; without any valid row the running statistics serve and stay.

    Attributes:
      count: batches seen; of no effect, kept because torch stores it.
      batch_axis: mapped axis over which a batch is spread (pmap, shard_map), or None.
    """

    def __init__(self, width: int, *, batch_axis: str | None) -> None:
        self.scale = parameter(jnp.ones((width,), jnp.float32), ("embed",))
        self.bias = parameter(jnp.zeros((width,), jnp.float32), ("embed",))
        self.mean = nnx.BatchStat(jnp.zeros((width,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((width,), jnp.float32))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.batch_axis = batch_axis

    def __call__(self, x: jax.Array, valid: jax.Array | None, train: bool) -> jax.Array:
        """Normalize `[B, H, W, C]`; `valid` is a boolean `[B]`, or None for all rows."""
        values = x.astype(jnp.float32)
        mean, var = self._update(values, valid) if train else (self.mean[...], self.var[...])
        factor = self.scale[...] * lax.rsqrt(var + EPSILON)  # [C]
        normal = (values - along_last(mean, 4)) * along_last(factor, 4)
        return (normal + along_last(self.bias[...], 4)).astype(x.dtype)

    def _update(self, values: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        rows, height, width, _ = values.shape
        keep = jnp.ones((rows,), bool) if valid is None else valid
        count = self._sum(jnp.sum(keep, dtype=jnp.float32)) * (height * width)
        some = jnp.maximum(count, 1.0)
        keep = keep[:, None, None, None]
        mean = self._sum(jnp.where(keep, values, 0.0).sum((0, 1, 2))) / some  # [C]
        # Two passes: E[x^2] - E[x]^2 cancels where the mean is large against the spread.
        square = jnp.where(keep, jnp.square(values - along_last(mean, 4)), 0.0)
        var = self._sum(square.sum((0, 1, 2))) / some
        unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))
        old_mean, old_var = self.mean[...], self.var[...]
        share = jnp.where(count > 0, MOMENTUM, 0.0)
        self.mean[...] = old_mean + share * (mean - old_mean)
        self.var[...] = old_var + share * (unbiased - old_var)
        self.count[...] = self.count[...] + (count > 0)
        return jnp.where(count > 0, mean, old_mean), jnp.where(count > 0, var, old_var)

    def _sum(self, x: jax.Array) -> jax.Array:
        return x if self.batch_axis is None else lax.psum(x, self.batch_axis)


class Classifier(nnx.Module):
    """The last projection under the name the registry expects, `output`."""

    def __init__(self, width: int, labels: int, rngs: nnx.Rngs, *, stddev: float) -> None:
        self.output = Linear(width, labels, rngs, axes=("embed", None), stddev=stddev)

    def __call__(self, vector: jax.Array, features: dict[str, jax.Array]) -> Outputs:
        """Project `[B, D]` to `[B, C]` logits in float32; `hidden` is what the projection reads."""
        vector = vector.astype(jnp.float32)
        bias = None if self.output.bias is None else self.output.bias[...]
        return Outputs(self.output(vector), vector, features, Head(self.output.kernel[...], bias))
