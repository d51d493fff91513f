"""The four codecs of a cache: their parameters, and the fields that each stores for a token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.losses.numerics import check_between
from jaxdistill.teachers.cache import quantize
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k most likely classes at a temperature; 3 k + 4 bytes a token for up to 65,536 classes.

    Attributes:
      k: classes kept.
      temperature: T of the stored distribution `softmax(logits / T)`; the loss must use the same.
    """

    k: int = 64
    temperature: float = 1.0

    name = "topk"


@dataclasses.dataclass(frozen=True)
class Sampled:
    """An unbiased sample; 3 samples + 6 bytes a token for up to 65,536 classes.

    Attributes:
      samples: classes kept, all different.
      temperature: T of the sampled distribution `softmax(logits / T)`; the loss must use the same.
      seed: seed of the draws, which depend on it, the example and the position alone.
    """

    samples: int = 18
    temperature: float = 1.0
    seed: int = 0

    name = "sampled"


@dataclasses.dataclass(frozen=True)
class Hidden:
    """The last hidden state, from which the frozen head gives the logits of all classes.

    Attributes:
      dtype: `int8`, `float8_e4m3fn` (both scaled by groups), `bfloat16`, `float16` or `float32`.
      group: channels that share a scale.
      outliers: values of every scaled state that are kept in float32: its largest ones.
    """

    dtype: str = "int8"
    group: int = 64
    outliers: int = 8

    name = "hidden"


@dataclasses.dataclass(frozen=True)
class Full:
    """All logits, for small numbers of classes.

    Attributes:
      dtype: `float32`, `float16` or `bfloat16`.
    """

    dtype: str = "float32"

    name = "full"


Codec = TopK | Sampled | Hidden | Full
CODECS: dict[str, type[Codec]] = {kind.name: kind for kind in (TopK, Sampled, Hidden, Full)}
_HIDDEN_DTYPES = ("int8", "float8_e4m3fn", "bfloat16", "float16", "float32")
_FULL_DTYPES = ("float32", "float16", "bfloat16")


def make_codec(name: str, **parameters: Any) -> Codec:
    """Return the codec of that name, its parameters checked.

    Raises:
      ConfigError: no such codec or parameter, or a parameter out of range.
    """
    if name not in CODECS:
        raise ConfigError(
            f"codec: got {name!r}, expected one of {', '.join(CODECS)}.{did_you_mean(name, CODECS)}"
        )
    known = [field.name for field in dataclasses.fields(CODECS[name])]
    for key in parameters:
        if key not in known:
            raise ConfigError(
                f"codec {name}: got parameter {key!r}, expected some of {', '.join(known)}."
                f"{did_you_mean(key, known)}"
            )
    return check_codec(CODECS[name](**parameters))


def check_codec(codec: Codec) -> Codec:
    """Return the codec.

    Raises:
      ConfigError: a parameter is out of range.
    """
    match codec:
        case TopK():
            _at_least("topk: k", codec.k, 1)
        case Sampled():
            _at_least("sampled: samples", codec.samples, 2)
        case Hidden():
            _at_least("hidden: group", codec.group, 1)
            _at_least("hidden: outliers", codec.outliers, 0)
            _one_of("hidden: dtype", codec.dtype, _HIDDEN_DTYPES)
        case Full():
            _one_of("full: dtype", codec.dtype, _FULL_DTYPES)
    if isinstance(codec, TopK | Sampled):
        fix = "the temperature of the loss"
        check_between(f"{codec.name}: temperature", codec.temperature, 0, float("inf"), fix)
    return codec


def describe(codec: Codec) -> Json:
    """Return name and parameters as plain values: `make_codec(**describe(codec)) == codec`."""
    return {"name": codec.name, **dataclasses.asdict(codec)}


def layout(codec: Codec, width: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return dtype and shape per token of every stored field.

    Args:
      codec: the codec.
      width: number of classes V, or D for `Hidden`.

    Raises:
      ConfigError: more classes are to be kept than there are.
    """
    half, byte = np.dtype(np.float16), np.dtype(np.uint8)
    match codec:
        case TopK():
            _at_most("topk: k", codec.k, width)
            ids = quantize.id_layout(codec.k, width)
            return {**ids, "levels": (byte, (codec.k,)), "span": (half, ()), "log_tail": (half, ())}
        case Sampled():
            _at_most("sampled: samples", codec.samples, width)
            return {
                **quantize.id_layout(codec.samples, width),
                "levels": (byte, (codec.samples,)),
                "threshold": (np.dtype(np.float32), ()),
                "entropy": (half, ()),
            }
        case Hidden():
            fields = {"hidden": (jnp.dtype(codec.dtype), (width,))}
            if codec.dtype in quantize.SCALED:
                groups = -(-width // codec.group)
                kept = (min(codec.outliers, width),)
                fields["scale"] = (jnp.dtype(jnp.bfloat16), (groups,))
                fields["outliers"] = (np.dtype(np.float32), kept)
                fields["outlier_channels"] = (np.dtype(np.uint16), kept)
            return fields
        case Full():
            return {"logits": (jnp.dtype(codec.dtype), (width,))}


def bytes_per_token(codec: Codec, width: int) -> int:
    """Return the bytes of one token's fields."""
    sizes = layout(codec, width).values()
    return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in sizes)


def blank(codec: Codec) -> dict[str, float]:
    """Return what fills the fields of a position without a teacher: its loss is 0."""
    match codec:
        case TopK():
            return {"levels": quantize.UNUSED, "log_tail": -np.inf}
        case Sampled():
            return {"levels": quantize.UNUSED}
        case Hidden() | Full():
            return {}


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of at least {least}")


def _at_most(name: str, value: int, classes: int) -> None:
    if value > classes:
        raise ConfigError(
            f"{name}: got {value}, expected at most the number of classes, {classes}; "
            "for few classes use the codec full"
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = did_you_mean(value, known)
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(known)}.{near}")
