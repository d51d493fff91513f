"""Students, cached teachers and losses of both, that the tests of chunked losses share."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses
from jaxdistill.losses.head import Projection
from jaxdistill.teachers.cache import codecs

ROWS, LENGTH, WIDTH, CLASSES = 2, 7, 8, 40


def case(
    seed=0, *, rows=ROWS, length=LENGTH, bias=True, transposed=False, dtype=jnp.float32, **constants
):
    """Return a student, a teacher's logits, labels and weights of tokens."""
    keys = jax.random.split(jax.random.key(seed), 6)
    hidden = jax.random.normal(keys[0], (rows, length, WIDTH), dtype)
    shape = (CLASSES, WIDTH) if transposed else (WIDTH, CLASSES)
    weights = jax.random.normal(keys[1], shape)
    offset = jax.random.normal(keys[2], (CLASSES,)) if bias else None
    student = Projection(hidden, weights, offset, transposed=transposed, **constants)
    teacher = 3 * jax.random.normal(keys[3], (rows * length, 30))
    labels = jax.random.randint(keys[4], (rows, length), 0, 30)
    where = (jax.random.uniform(keys[5], (rows, length)) < 0.7).astype(jnp.float32)
    return student, teacher, labels, where


def stored(codec, teacher, rows=ROWS):
    """Return what a cache keeps of the teacher, as the losses take it."""
    tokens = teacher.shape[0]
    keys = codecs.token_keys(0, np.arange(tokens), np.zeros(tokens))
    decoded = jax.jit(lambda x: codecs.decode(codec, codecs.encode(codec, x, keys)))(teacher)
    return tuple(leaf.reshape(rows, -1, *leaf.shape[1:]) for leaf in decoded)


def terms_of(codec, names):
    """Return a soft and a hard term."""
    loss = getattr(losses, names)
    return {
        "soft": (
            lambda logits, own: loss(logits, *own["parts"], temperature=codec.temperature),
            0.7,
        ),
        "hard": (lambda logits, own: losses.cross_entropy(logits, own["labels"]), 0.3),
    }
