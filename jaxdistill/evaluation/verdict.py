"""One plain sentence: did distillation pay off, and can the figures tell?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.tasks.registry import metric_named
from jaxdistill.types import Json

CONFIDENCE = 0.95


class Noise(NamedTuple):
    """How far a difference of two arms can lie from 0 by chance, with 95 % confidence.

    Attributes:
      seeds: half-width from the spread over seeds, None for a single seed.
      examples: half-width from the choice of evaluation examples, None where unknown.
      margin: half-width of both together, NaN for a single seed, infinite where nothing is known.
    """

    seeds: float | None
    examples: float | None
    margin: float


def verdict(result: Json) -> str:
    """Say whether the distilled student is better than the same student alone.

    The difference counts as real where it is larger than its 95 % margin (see `gain_noise`). A
    single seed cannot tell chance from gain, so that it claims nothing.

    Args:
      result: values of a run's `result.json`: `metric`, `higher_is_better`, `examples`, `teacher`,
        `student_alone`, `student_distilled` (each with `values`), `seeds`, `evaluation_error`,
        `interaction_error`.
    """
    alone = np.asarray(result["student_alone"]["values"], np.float64)
    distilled = np.asarray(result["student_distilled"]["values"], np.float64)
    sign = 1.0 if result["higher_is_better"] else -1.0
    gain = sign * float(distilled.mean() - alone.mean())

    name = result["metric"]
    seeds = f"{len(distilled)} seeds" if len(distilled) > 1 else "one seed"
    figures = f"{_value(name, distilled)} against {_value(name, alone)} {name}, {seeds}"
    if not math.isfinite(gain):
        return f"Distillation cannot be judged: the {name} is not a number ({figures})."
    if gain == 0:
        return f"Distillation did not pay off: both students reach the same {name} ({figures})."
    noise = gain_noise(result)
    difference = format_difference(name, abs(gain))
    side = "ahead of" if gain > 0 else "behind"
    basis = _basis(name, noise, result.get("examples"))
    if noise.seeds is None:
        return (
            f"Whether distillation paid off cannot be told from one seed: the distilled student is "
            f"{difference} {side} the student alone ({figures}; {basis}); run more seeds, e.g. "
            "seeds=[0,1,2]."
        )
    if math.isinf(noise.margin):
        return (
            f"Whether distillation paid off cannot be told: the distilled student is {difference} "
            f"{side} the student alone ({figures}), but all seeds gain the same and the noise of "
            "so few examples is unknown; evaluate on more."
        )
    margin = f"±{format_difference(name, noise.margin)} at {100 * CONFIDENCE:.0f} % confidence"
    if abs(gain) <= noise.margin:
        return (
            f"Whether distillation paid off cannot be told: the distilled student is {difference} "
            f"{side} the student alone ({figures}), within the noise of {margin} ({basis})."
        )
    if gain < 0:
        return (
            f"Distillation did not pay off: the distilled student is {difference} worse than the "
            f"same student alone ({figures}), beyond the noise of {margin} ({basis})."
        )
    return (
        f"Distillation paid off: the distilled student is {difference} better than the same "
        f"student alone ({figures}), beyond the noise of {margin} ({basis})"
        f"{_gap(result, alone, gain, sign)}."
    )


def gain_noise(result: Json) -> Noise:
    """Return the 95 % margin of the difference between the distilled student and the one alone.

    Its variance has two parts: over seeds (paired, because both students of a seed start alike)
    and over examples as far as they favour one arm in every seed. `evaluation_error` less
    `interaction_error` of the result gives the latter (see `uncertainty.difference_error`); where
    they are not known, it is the binomial error of two independent shares, which is too wide
    rather than too narrow. Seeds that gain exactly the same amount, as coarse metrics let them,
    show no spread; then the whole error over examples is taken in its place.

    With few seeds the variance itself is uncertain, which widens the quantile; see `quantile`.

    Args:
      result: values of a run's `result.json`, see `verdict`.
    """
    alone = np.asarray(result["student_alone"]["values"], np.float64)
    distilled = np.asarray(result["student_distilled"]["values"], np.float64)
    seeds, examples = len(distilled), result.get("examples")
    whole, interaction = _example_variance(result, alone, distilled)
    example_freedom = max((examples or 1000) - 1, 1)
    if seeds < 2 or len(alone) != seeds:
        half = None if whole is None else _t(example_freedom) * math.sqrt(whole)
        return Noise(None, half, math.nan)
    over_seeds = float((distilled - alone).var(ddof=1)) / seeds
    shared = max((whole or 0.0) - interaction, 0.0)
    if over_seeds < 1e-24:
        if whole is None:
            return Noise(0.0, None, math.inf)
        factor, shared = _t(example_freedom), whole
    else:
        factor = quantile(over_seeds, seeds - 1, shared, example_freedom)
    return Noise(
        factor * math.sqrt(over_seeds),
        None if whole is None else factor * math.sqrt(shared),
        factor * math.sqrt(over_seeds + shared),
    )


def quantile(over_seeds: float, seed_freedom: int, shared: float, example_freedom: int) -> float:
    """Return how many standard errors a 95 % margin takes where the variance is a sum of two.

    Student's t with the degrees of freedom of Welch 1947 and Satterthwaite 1946,
    `(s + e)^2 / (s^2 / df_s + e^2 / df_e)`. With few seeds it claims too much where both parts
    matter (with two up to 13 % of claims are false, not 5), and gives way to the cautious mean of
    both quantiles by Cochran & Cox 1950, `w t(df_s) + (1 - w) t(df_e)` with the share `w` of the
    seeds: with two where `w` is more than a tenth, with three or four by `w`. False claims then
    lie between 3.7 and 6.3 % at any share.

    Args:
      over_seeds: variance of the mean gain over seeds.
      seed_freedom: degrees of freedom of that variance, at least 1.
      shared: variance of the mean gain over examples.
      example_freedom: degrees of freedom of that variance.
    """
    total = over_seeds + shared
    share = over_seeds / total if total > 0 else 0.0
    freedom = 1.0 / (share**2 / seed_freedom + (1.0 - share) ** 2 / example_freedom)
    cautious = share * _t(seed_freedom) + (1.0 - share) * _t(example_freedom)
    weight = {1: float(share > 0.1), 2: share, 3: share}.get(seed_freedom, 0.0)
    return (1.0 - weight) * _t(freedom) + weight * cautious


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (None for a single value)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def format_metric(name: str, value: float) -> str:
    """Format a metric: shares in percent, correlations and errors as they are."""
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.{decimals(name)}f}"


def is_share(name: str) -> bool:
    """Return whether a metric is a share of examples, shown in percent and compared in points."""
    return metric_named(name).kind == "share"


def decimals(name: str) -> int:
    """Return with how many decimals a metric is shown that is no share."""
    return metric_named(name).decimals


def format_difference(name: str, difference: float, sign: str = "") -> str:
    """Format a difference of metrics: shares in points; `sign="+"` shows a plus, too."""
    if is_share(name):
        return f"{100 * difference:{sign}.2f} points"
    return f"{difference:{sign}.{decimals(name)}f}"


def _example_variance(
    result: Json, alone: np.ndarray, distilled: np.ndarray
) -> tuple[float | None, float]:
    """Return the variance over examples of the gain, and the part that seeds show, too."""
    given, examples = result.get("evaluation_error"), result.get("examples")
    if given is not None and math.isfinite(given):
        return float(given) ** 2, float(result.get("interaction_error") or 0.0) ** 2
    if metric_named(result["metric"]).hits is None or not examples:
        return None, 0.0
    shares = [float(group.mean()) for group in (alone, distilled)]
    return sum(max(p * (1 - p), 0.0) for p in shares) / examples, 0.0


def _t(freedom: float) -> float:
    """Return the two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _value(name: str, values: np.ndarray) -> str:
    mean, spread = mean_and_spread(list(values))
    if spread is None:
        return format_metric(name, mean)
    if is_share(name):
        return f"{100 * mean:.2f} ± {100 * spread:.2f} %"
    return f"{mean:.{decimals(name)}f} ± {spread:.{decimals(name)}f}"


def _basis(name: str, noise: Noise, examples: int | None) -> str:
    if noise.seeds is None:
        parts = ["spread over seeds unknown"]
    else:
        parts = [f"±{format_difference(name, noise.seeds)} from seeds"]
    if noise.examples is not None:
        of = f"{examples:,} examples" if examples else "the examples"
        parts.append(f"±{format_difference(name, noise.examples)} from {of}")
    return ", ".join(parts)


def _gap(result: Json, alone: np.ndarray, gain: float, sign: float) -> str:
    """Say how much of the distance to the teacher was made up, where there is one."""
    teacher = result.get("teacher", {}).get("values")
    if not teacher:
        return ""
    gap = sign * float(np.mean(teacher) - alone.mean())
    if gap <= 0:
        return "; the student alone is already as good as the teacher"
    if gain >= gap:
        return "; it is as good as the teacher or better"
    return f"; it closes {100 * gain / gap:.0f} % of the gap to the teacher"
