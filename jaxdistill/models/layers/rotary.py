"""Rotary position embeddings (Su et al. 2021): their parameters, frequencies and rotation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.types import Json

Rotation = tuple[jax.Array, jax.Array]  # cosine and sine, each [1 or B, T, d / 2] float32
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_NEEDED = {"default": (), "linear": ("factor",), "llama3": _LLAMA3}

_OTHER = "other scalings are not supported: give a model without one"
_WAYS_OUT = {
    "dynamic": "up to max_position_embeddings it changes nothing: for rows that are no longer, "
    "take the scaling out of config.json"
}


def rope_parameters(
    name: str,
    *,
    theta: float | None,
    scaling: Json | None,
    parameters: Json | None,
    default_theta: float,
    positions: int,
) -> Json:
    """Merge the ways in which Hugging Face configs, old and new, say how positions rotate.

    Args:
      name: names of the family and field, for messages.
      theta: `rope_theta` of older configs.
      scaling: `rope_scaling` of older configs.
      parameters: `rope_parameters` of newer ones.
      default_theta: where neither says it.
      positions: `max_position_embeddings`, from which a missing original length is taken.

    Returns:
      `rope_type`, `rope_theta`, and what that type needs.

    Raises:
      ModelError: an unknown type, a missing or bad number, or two bases that differ.
    """
    merged = dict(scaling or parameters or {})
    old_type = merged.pop("type", "default")
    kind = merged.setdefault("rope_type", old_type)
    if kind not in _NEEDED:
        raise ModelError(
            f"{name}.rope_type: got {kind!r}, expected one of {sorted(_NEEDED)}; "
            f"{_WAYS_OUT.get(kind, _OTHER)}.{did_you_mean(str(kind), _NEEDED)}"
        )
    stated = merged.get("rope_theta", (parameters or {}).get("rope_theta"))
    if None not in (stated, theta) and stated != theta:
        raise ModelError(
            f"{name}.rope_theta: got {theta} beside {stated} in rope_parameters, expected one base"
        )
    merged["rope_theta"] = stated or theta or default_theta
    if kind == "llama3":
        merged.setdefault("original_max_position_embeddings", positions)
    for key in ("rope_theta", *_NEEDED[kind]):
        value = merged.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ModelError(f"{name}.{key}: got {value!r}, expected a number above 0")
    if merged.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(
            f"{name}.partial_rotary_factor: got {merged['partial_rotary_factor']!r}, "
            "only 1.0 is supported"
        )
    return merged


def old_scaling(parameters: Json) -> Json | None:
    """Return the `rope_scaling` that says in older configs what `rope_parameters` says."""
    if parameters["rope_type"] == "default":
        return None
    return {key: value for key, value in parameters.items() if key != "rope_theta"}


def inverse_frequencies(parameters: Json, width: int) -> tuple[float, ...]:
    """Return the angle per position of each pair of a head's `width` entries, `theta^(-2i/d)`.

    `linear` divides all of them by a factor (Chen et al. 2023); `llama3` only those whose wave is
    long against the length trained on, with a smooth passage (Llama Team 2024, section 3.4.3).
    """
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies = np.float32(1.0) / np.float32(parameters["rope_theta"]) ** exponents
    if parameters["rope_type"] == "linear":
        frequencies = frequencies / np.float32(parameters["factor"])
    elif parameters["rope_type"] == "llama3":
        factor, low, high, length = (float(parameters[key]) for key in _LLAMA3)
        turns = length * frequencies / (2 * np.pi)  # waves within the original length
        share = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies = frequencies * (share + (1.0 - share) / factor)
    return tuple(float(value) for value in frequencies)


def rotations(frequencies: Sequence[Sequence[float]], positions: jax.Array) -> Rotation:
    """Return cosine and sine of each kind of layer, `[kinds, 1 or B, T, d / 2]` float32.

    Args:
      frequencies: per kind, the inverse frequencies `[d / 2]`.
      positions: `[1 or B, T]` integers.
    """
    table = jnp.asarray(np.asarray(frequencies, np.float32))  # [kinds, d / 2]
    angles = positions.astype(jnp.float32)[None, :, :, None] * table[:, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotate the pairs `(i, i + d / 2)` of each head of `[B, T, H, d]`, in float32."""
    cosine, sine = (table[:, :, None] for table in rotation)  # [1 or B, T, 1, d / 2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
