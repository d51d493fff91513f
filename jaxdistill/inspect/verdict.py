"""One plain sentence: did distillation pay off, and can the figures tell?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHARES = ("accuracy", "exact_match", "f1")
"""Metrics that are shares of examples, shown in percent and compared in points."""
DECIMALS = {"perplexity": 2, "bits_per_byte": 3}
"""With how many decimals metrics are shown that are no shares; four where nothing is said."""


def verdict(result: Mapping[str, Any]) -> str:
    """Say whether the distilled student is better than the same student alone.

    The difference counts as real where it is larger than twice its standard error. That error has
    two parts: the spread over seeds (paired, because both students of a seed start alike) and the
    noise of the evaluation set: `result["evaluation_error"]` where given, else the binomial error
    of two independent shares, which is too wide rather than too narrow.

    Args:
      result: as in a run's `result.json`: `metric`, `higher_is_better`, `examples`, `teacher`,
        `student_alone`, `student_distilled` (each with `values`), `seeds`.
    """
    alone = np.asarray(result["student_alone"]["values"], np.float64)
    distilled = np.asarray(result["student_distilled"]["values"], np.float64)
    sign = 1.0 if result["higher_is_better"] else -1.0
    gain = sign * float(distilled.mean() - alone.mean())
    seed_error, example_error = _errors(result, alone, distilled)
    noise = 2 * math.hypot(*(e for e in (seed_error, example_error) if e is not None))

    name = result["metric"]
    seeds = f"{len(distilled)} seeds" if len(distilled) > 1 else "one seed"
    figures = f"{_value(name, distilled)} against {_value(name, alone)} {name}, {seeds}"
    difference = format_difference(name, abs(gain))
    margin = f"±{format_difference(name, noise)}"
    basis = _basis(name, seed_error, example_error, result.get("examples"))
    if not math.isfinite(gain):
        return f"Distillation cannot be judged: the {name} is not a number ({figures})."
    if gain == 0:
        return f"Distillation did not pay off: both students reach the same {name} ({figures})."
    if noise == 0 and seed_error is None and example_error is None:
        side = "ahead" if gain > 0 else "behind"
        return (
            f"The distilled student is {difference} {side} ({figures}), but one seed and no "
            "evaluation noise say nothing about chance: run more seeds."
        )
    if abs(gain) <= noise:
        side = "ahead of" if gain > 0 else "behind"
        return (
            f"Whether distillation paid off cannot be told: the distilled student is {difference} "
            f"{side} the student alone ({figures}), within the noise of {margin} "
            f"({basis})."
        )
    if gain < 0:
        return (
            f"Distillation did not pay off: the distilled student is {difference} worse than the "
            f"same student alone ({figures}), beyond the noise of {margin} "
            f"({basis})."
        )
    return (
        f"Distillation paid off: the distilled student is {difference} better than the same "
        f"student alone ({figures}), beyond the noise of {margin} ({basis})"
        f"{_gap(result, alone, gain, sign)}."
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (None for a single value)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def format_metric(name: str, value: float) -> str:
    """Format a metric: shares in percent, correlations and errors as they are."""
    return f"{100 * value:.2f} %" if name in SHARES else f"{value:.{decimals(name)}f}"


def decimals(name: str) -> int:
    """Return with how many decimals a metric is shown that is no share."""
    return DECIMALS.get(name, 4)


def format_difference(name: str, difference: float, sign: str = "") -> str:
    """Format a difference of metrics: shares in points; `sign="+"` shows a plus, too."""
    if name in SHARES:
        return f"{100 * difference:{sign}.2f} points"
    return f"{difference:{sign}.{decimals(name)}f}"


def _errors(
    result: Mapping[str, Any], alone: np.ndarray, distilled: np.ndarray
) -> tuple[float | None, float | None]:
    """Return the standard errors of the difference from seeds and from examples."""
    seeds = len(distilled)
    over_seeds = None
    if seeds > 1 and len(alone) == seeds:
        over_seeds = float((distilled - alone).std(ddof=1) / math.sqrt(seeds))
    given, examples = result.get("evaluation_error"), result.get("examples")
    if given is not None and math.isfinite(given):
        return over_seeds, float(given)
    if result["metric"] not in ("accuracy", "exact_match") or not examples:
        return over_seeds, None
    shares = [float(group.mean()) for group in (alone, distilled)]
    return over_seeds, math.sqrt(sum(max(p * (1 - p), 0.0) for p in shares) / examples)


def _value(name: str, values: np.ndarray) -> str:
    mean, spread = mean_and_spread(list(values))
    if spread is None:
        return format_metric(name, mean)
    if name in SHARES:
        return f"{100 * mean:.2f} ± {100 * spread:.2f} %"
    return f"{mean:.{decimals(name)}f} ± {spread:.{decimals(name)}f}"


def _basis(
    name: str, over_seeds: float | None, over_examples: float | None, examples: int | None
) -> str:
    parts = []
    if over_seeds is not None:
        parts.append(f"±{format_difference(name, 2 * over_seeds)} from seeds")
    else:
        parts.append("spread over seeds unknown")
    if over_examples is not None:
        of = f"{examples:,} examples" if examples else "the examples"
        parts.append(f"±{format_difference(name, 2 * over_examples)} from {of}")
    return ", ".join(parts)


def _gap(result: Mapping[str, Any], alone: np.ndarray, gain: float, sign: float) -> str:
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
