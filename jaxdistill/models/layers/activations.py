"""Activation functions by their names in Hugging Face configs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdistill.errors import ModelError, did_you_mean


def gelu(x: jax.Array) -> jax.Array:
    """Return `x Φ(x)` by the error function (Hendrycks and Gimpel 2016)."""
    if x.dtype != jnp.float32:
        return jax.nn.gelu(x, approximate=False)
    # jax.nn.gelu takes erfc: costlier, for digits far below 0 that no sum of activations keeps.
    return 0.5 * x * (1.0 + lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return the activation of that name in Hugging Face configs.

    Raises:
      ModelError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise ModelError(
            f"activation: got {name!r}, expected one of {sorted(ACTIVATIONS)}."
            f"{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
