"""What each divergence sums over a row of classes, and its slope to a logit given the sums.

Split in this way a row may lie on several devices, or be seen again block by block: all that must
meet are a few numbers per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.losses.numerics import ABSENT, Distribution, kl_terms, mix


class Row(NamedTuple):
    """Both sides of a block of classes at one temperature.

    Attributes:
      q: the student's distribution, `[N, V]` each.
      p: the teacher's; None without a teacher.
      is_label: bool `[N, V]`; None without labels.
      label: the student's distribution at the label, `[N, 1]` each, its support False where the
        label is not in this block; None without labels.
      beta: scalar; the teacher's share of the mixture in JSD.
    """

    q: Distribution
    p: Distribution | None
    is_label: jax.Array | None
    label: Distribution | None
    beta: jax.Array


class Rule(NamedTuple):
    """One divergence: `value = sum_c summands[0]` and `d value / d (logit / T)` from all the sums.

    Attributes:
      summands: arrays `[N, V]` of a block (or `[N, 1]`, sums of the block) to be summed over all
        classes.
      slope: slopes `[N, V]`, from a block and the sums `[N, 1]` of all its summands.
      power: power of the temperature that multiplies the value.
    """

    summands: Callable[[Row], tuple[jax.Array, ...]]
    slope: Callable[[Row, tuple[jax.Array, ...]], jax.Array]
    power: int


class Normalizer(NamedTuple):
    """What turns logits into probabilities, per token.

    Attributes:
      highest: `[N, 1]`, the largest logit; -inf in a row without a class.
      totals: per temperature `[N, 1]`, the sum of `exp((logit - highest) / T)`.
    """

    highest: jax.Array
    totals: tuple[jax.Array, ...]


def shifted(
    logits: jax.Array, highest: jax.Array, temperature: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return `(logits - highest) / T`, 0 outside the support, and the support, both `[N, V]`."""
    rest = logits - jnp.where(highest == -jnp.inf, 0.0, highest)
    rest = rest if temperature is None else rest / temperature
    support = ~(rest <= ABSENT)  # written so that NaN counts as support
    return jnp.where(support, rest, 0.0), support


def distribution(
    logits: jax.Array, normalizer: Normalizer, temperature: jax.Array | None, index: int
) -> Distribution:
    """Softmax of a block `[N, V]`, normalized over the whole row."""
    rest, support = shifted(logits, normalizer.highest, temperature)
    total = jnp.where(normalizer.totals[index] == 0, 1.0, normalizer.totals[index])
    floor = math.log(jnp.finfo(rest.dtype).tiny)
    log_probabilities = jnp.where(support, rest - jnp.log(total), floor)
    # The same exponentials as were summed: a compiler that keeps them need not take them again.
    exponentials = jnp.where(support, jnp.exp(rest), 0.0)
    return Distribution(log_probabilities, exponentials * (1.0 / total), support)


def _teacher(row: Row) -> Distribution:
    assert row.p is not None
    return row.p


def _cross_entropy_summands(row: Row) -> tuple[jax.Array, ...]:
    assert row.label is not None
    reached = row.label.support
    return -jnp.where(reached, row.label.log_probabilities, 0.0), _number(reached, row)


def _cross_entropy_slope(row: Row, sums: tuple[jax.Array, ...]) -> jax.Array:
    assert row.is_label is not None
    return row.q.probabilities * sums[1] - _number(row.is_label & row.q.support, row)


def _forward_kl_summands(row: Row) -> tuple[jax.Array, ...]:
    p = _teacher(row)
    return kl_terms(p, row.q), jnp.where(row.q.support, p.probabilities, 0.0)


def _forward_kl_slope(row: Row, sums: tuple[jax.Array, ...]) -> jax.Array:
    reached = jnp.where(row.q.support, _teacher(row).probabilities, 0.0)
    return row.q.probabilities * sums[1] - reached


def _reverse_kl_summands(row: Row) -> tuple[jax.Array, ...]:
    p, q = _teacher(row), row.q
    return kl_terms(q, p), q.probabilities * (q.log_probabilities - p.log_probabilities)


def _reverse_kl_slope(row: Row, sums: tuple[jax.Array, ...]) -> jax.Array:
    ratio = row.q.log_probabilities - _teacher(row).log_probabilities
    return row.q.probabilities * (ratio - sums[1])


def _jsd_summands(row: Row) -> tuple[jax.Array, ...]:
    p, q, beta = _teacher(row), row.q, row.beta
    mixture = mix(beta, p, q)
    value = beta * kl_terms(p, mixture) + (1 - beta) * kl_terms(q, mixture)
    return value, q.probabilities * (q.log_probabilities - mixture.log_probabilities)


def _jsd_slope(row: Row, sums: tuple[jax.Array, ...]) -> jax.Array:
    ratio = row.q.log_probabilities - mix(row.beta, _teacher(row), row.q).log_probabilities
    return (1 - row.beta) * row.q.probabilities * (ratio - sums[1])


def _total_variation_summands(row: Row) -> tuple[jax.Array, ...]:
    difference, q = _difference(row), row.q.probabilities
    above = jnp.where(difference > 0, q, 0.0)
    below = jnp.where(difference < 0, q, 0.0)
    return 0.5 * jnp.abs(difference), above, below, jnp.where(difference == 0, q, 0.0)


def _total_variation_slope(row: Row, sums: tuple[jax.Array, ...]) -> jax.Array:
    """`q (sign - sum q sign) / 2`, written so that nothing cancels where one q is nearly 1."""
    _, above, below, equal = sums
    difference = _difference(row)
    centred = jnp.where(difference > 0, 2 * below + equal, -(2 * above + equal))
    centred = jnp.where(difference == 0, below - above, centred)
    return 0.5 * row.q.probabilities * centred


def _difference(row: Row) -> jax.Array:
    """`q - p`, 0 where they are equal to rounding, as in `divergence.total_variation`."""
    p, q = _teacher(row).probabilities, row.q.probabilities
    rounding = 16 * jnp.finfo(q.dtype).eps * p
    return jnp.where(jnp.abs(q - p) <= rounding, 0.0, q - p)


def _number(mask: jax.Array, row: Row) -> jax.Array:
    return mask.astype(row.q.probabilities.dtype)


RULES = {
    "cross_entropy": Rule(_cross_entropy_summands, _cross_entropy_slope, 0),
    "forward_kl": Rule(_forward_kl_summands, _forward_kl_slope, 2),
    "reverse_kl": Rule(_reverse_kl_summands, _reverse_kl_slope, 2),
    "jsd": Rule(_jsd_summands, _jsd_slope, 2),
    "total_variation": Rule(_total_variation_summands, _total_variation_slope, 0),
}
