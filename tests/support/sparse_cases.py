"""Random logits, their k best classes, and float64 loops that the tests of cached losses share."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses

FULL = {
    "forward": losses.forward_kl,
    "reverse": losses.reverse_kl,
    "jsd": losses.jsd,
    "variation": losses.total_variation,
}


TOP = {
    "forward": losses.topk_forward_kl,
    "reverse": losses.topk_reverse_kl,
    "jsd": losses.topk_jsd,
    "variation": losses.topk_total_variation,
}


@functools.cache
def compiled(loss: Callable[..., jax.Array], **settings: Any) -> Callable[..., jax.Array]:
    """One program instead of many small ones; the settings are part of it."""
    return jax.jit(functools.partial(loss, **settings))


def softmax(row, temperature):
    exponentials = [math.exp((x - max(row)) / temperature) for x in row]
    return [x / math.fsum(exponentials) for x in exponentials]


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def example(seed=0, rows=5, classes=23, spread=2.0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, spread, (2, rows, classes)).astype(np.float32)


def cache(teacher, k, temperature=1.0):
    """The k best of every row and the log of what they leave, in float64 and plain loops."""
    ids, log_probabilities, log_tail = [], [], []
    for row in np.asarray(teacher, np.float64):
        p = softmax(row, temperature)
        order = sorted(range(len(p)), key=lambda c: -p[c])
        rest = math.fsum(p[c] for c in order[k:])
        ids.append(order[:k])
        log_probabilities.append([math.log(p[c]) for c in order[:k]])
        log_tail.append(math.log(rest) if rest > 0 else -math.inf)
    return (
        jnp.array(ids, jnp.int32),
        jnp.array(log_probabilities, jnp.float32),
        jnp.array(log_tail, jnp.float32),
    )
