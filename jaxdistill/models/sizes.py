"""How large models are: by what their configs say, and by their parameters."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.types import Tree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a model's config says of its sizes, whatever its fields are called; None: no such thing.

    Attributes:
      layers: number of layers, as its taps count them.
      width: features of a token's state.
      heads: heads of attention in a layer.
      key_heads: heads of keys and values, where these are fewer.
      head_width: features of a head; by default its share of `width`.
      vocabulary: rows of the table of tokens.
      token_types: kinds of tokens, such as those of the first and of the second text of a pair.
      positions: tokens in the longest row.
      image: height and width of the images in pixels.
      channels: channels of the images.
      features: numbers that an example has.
    """

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    key_heads: int | None = None
    head_width: int | None = None
    vocabulary: int | None = None
    token_types: int | None = None
    positions: int | None = None
    image: tuple[int, int] | None = None
    channels: int | None = None
    features: int | None = None

    def __post_init__(self) -> None:
        if self.head_width is None and self.width and self.heads:
            object.__setattr__(self, "head_width", self.width // self.heads)


def count_parameters(params: Tree) -> int:
    """Return the number of elements of a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def count_bytes(params: Tree) -> int:
    """Return the bytes of a pytree."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params))
