"""Rows of any layout to encoded fields on the host, and how much of the teacher they keep."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdistill.errors import DataError
from jaxdistill.models.outputs import Head
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.cache.quality import project, reconstruction_kl


class Rows(NamedTuple):
    """The tokens of some examples, one after the other, padding included.

    Attributes:
      values: `[M, width]`.
      real: bool `[M]`.
      owner: int `[M]`: which of the examples (0 to B - 1) a token is of.
      position: int `[M]`: its place among the real tokens of that example.
      lengths: int64 `[B]`: real tokens of each example.
    """

    values: np.ndarray | jax.Array
    real: np.ndarray
    owner: np.ndarray
    position: np.ndarray
    lengths: np.ndarray


def flatten_rows(
    values: ArrayLike,
    examples: np.ndarray,
    lengths: ArrayLike | None,
    where: ArrayLike | None,
) -> Rows:
    """Bring the three layouts of `CacheWriter.write` into one.

    Raises:
      DataError: shapes do not fit each other.
    """
    array = values if isinstance(values, np.ndarray | jax.Array) else np.asarray(values)
    count, shape = examples.size, array.shape
    counts = None if lengths is None else np.asarray(lengths, np.int64)
    if counts is not None and (counts.shape != (count,) or (counts < 0).any()):
        raise DataError(f"lengths: got {counts.tolist()}, expected one of at least 0 per example")
    if len(shape) == 3 and shape[0] == count:
        real = np.ones(shape[:2], bool) if where is None else np.asarray(where)
        if real.shape != shape[:2] or real.dtype != bool:
            raise DataError(f"where: got {real.dtype} {real.shape}, expected bool {shape[:2]}")
        if counts is not None:
            if (counts > shape[1]).any():
                raise DataError(f"lengths: got {counts.max()}, expected at most {shape[1]} columns")
            real = real & (np.arange(shape[1])[None, :] < counts[:, None])
        position = np.cumsum(real, -1) - 1
        owner = np.broadcast_to(np.arange(count)[:, None], shape[:2])
        array = array.reshape(-1, shape[2])
        return Rows(array, real.ravel(), owner.ravel(), position.ravel(), real.sum(-1))
    if counts is None and len(shape) == 2 and shape[0] == count and where is None:
        counts = np.ones(count, np.int64)
    if len(shape) != 2 or counts is None or counts.sum() != shape[0] or where is not None:
        raise DataError(
            f"values: got shape {shape} for {count} examples with "
            f"{'no lengths' if counts is None else f'{counts.sum()} tokens in lengths'}, expected "
            "[B, V], [B, T, V] (with where [B, T]), or [N, V] with lengths that sum to N"
        )
    owner = np.repeat(np.arange(count), counts)
    position = np.arange(shape[0]) - np.repeat(np.cumsum(counts) - counts, counts)
    return Rows(array, np.ones(shape[0], bool), owner, position, counts)


class Encoder:
    """A codec compiled for few shapes: a batch is padded by a quarter of its size at most.

    With a head the values are hidden states; unless the codec stores those, their logits exist for
    a few tokens at a time.
    """

    def __init__(self, codec: codecs.Codec, head: Head | None) -> None:
        self._codec = codec
        self._head = jax.tree.map(jnp.asarray, head)

    def width(self, values: int) -> int:
        """Return the width of what is encoded, from that of the values."""
        if self._head is None or isinstance(self._codec, codecs.Hidden):
            return values
        return self._head.weights.shape[1]

    def encode(self, rows: Rows, examples: np.ndarray) -> dict[str, np.ndarray]:
        """Return the fields of the real tokens.

        Raises:
          DataError: a real token's values are not finite (all classes at -inf count as that).
        """
        count = rows.real.size
        size = _padded(count)
        values = rows.values
        if size != count:
            pad = np.pad if isinstance(values, np.ndarray) else jnp.pad
            values = pad(values, ((0, size - count), (0, 0)))
        tokens = np.pad(examples[rows.owner], (0, size - count)) & 0xFFFFFFFF
        places = np.pad(rows.position, (0, size - count)) & 0xFFFFFFFF
        fields, sound = jax.device_get(
            _encode(
                self._codec,
                self._head,
                values,
                tokens.astype(np.uint32),
                places.astype(np.uint32),
            )
        )
        broken = np.flatnonzero(rows.real & ~sound[:count])
        if broken.size:
            example = int(examples[rows.owner[broken[0]]])
            raise DataError(
                f"example {example}: the teacher's values at token "
                f"{int(rows.position[broken[0]])} are NaN, +inf or all -inf "
                f"({broken.size} tokens of this batch are); look at the teacher, a cache of it "
                "would teach this"
            )
        return {name: array[:count][rows.real] for name, array in fields.items()}

    def compare(self, rows: Rows, fields: Mapping[str, np.ndarray]) -> tuple[int, float]:
        """Return how many tokens were compared, and the sum of their reconstruction KL in nats."""
        real = np.flatnonzero(rows.real)[:COMPARED]
        if not real.size:
            return 0, 0.0
        index = np.resize(real, COMPARED)  # one shape
        stored = {
            name: array[np.resize(np.arange(real.size), COMPARED)] for name, array in fields.items()
        }
        kl = np.asarray(_compare(self._codec, stored, rows.values[index], self._head))
        return real.size, float(kl[: real.size].sum(dtype=np.float64))


COMPARED = 64  # tokens whose reconstruction is measured for each shard


def _padded(count: int) -> int:
    step = max(8, 1 << max(count.bit_length() - 3, 0))
    return -(-count // step) * step


_CELLS = 2**25  # logits at a time


@functools.partial(jax.jit, static_argnums=0)
def _compare(
    codec: codecs.Codec, fields: Mapping[str, ArrayLike], values: jax.Array, head: Head | None
) -> jax.Array:
    if head is not None and not isinstance(codec, codecs.Hidden):
        values, head = project(head, values), None
    return reconstruction_kl(codec, fields, values, head)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    codec: codecs.Codec,
    head: Head | None,
    values: ArrayLike,
    examples: ArrayLike,
    positions: ArrayLike,
) -> tuple[dict[str, jax.Array], jax.Array]:
    is_hidden = isinstance(codec, codecs.Hidden)

    def some(part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[dict[str, jax.Array], Any]:
        values, examples, positions = part
        if head is not None and not is_hidden:
            values = project(head, values)
        keys = None
        if isinstance(codec, codecs.Sampled):
            keys = codecs.token_keys(codec.seed, examples, positions)
        if is_hidden:
            sound = jnp.isfinite(values).all(-1)
        else:  # asked apart, since on CPUs a maximum may pass over NaN
            sound = jnp.isfinite(jnp.max(values, -1)) & ~jnp.isnan(values).any(-1)
        return codecs.encode(codec, values, keys), sound

    parts = jax.tree.map(jnp.asarray, (values, examples, positions))
    count = len(parts[0])
    if head is None or is_hidden:
        return some(parts)
    size = min(count, max(8, _CELLS // head.weights.shape[1]))
    beyond = -count % size
    cut = [
        jnp.pad(leaf, ((0, beyond), *((0, 0),) * (leaf.ndim - 1))).reshape(
            -1, size, *leaf.shape[1:]
        )
        for leaf in parts
    ]
    found = jax.lax.map(some, tuple(cut))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)
