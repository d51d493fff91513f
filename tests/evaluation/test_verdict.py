"""The verdict says what the figures say, and no more."""

import functools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jaxdistill.evaluation.uncertainty import difference_error
from jaxdistill.evaluation.verdict import gain_noise, mean_and_spread, verdict


def _result(alone, distilled, teacher=(0.95,), **other) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "higher_is_better": True,
        "examples": 1000,
        "teacher": {"values": list(teacher)},
        "student_alone": {"values": list(alone)},
        "student_distilled": {"values": list(distilled)},
        "seeds": list(range(len(alone))),
        **other,
    }


def test_paid_off():
    text = verdict(_result((0.80, 0.81, 0.79), (0.89, 0.90, 0.88)))
    assert text.startswith("Distillation paid off: the distilled student is 9.00 points better")
    assert "89.00 ± 1.00 % against 80.00 ± 1.00 % accuracy, 3 seeds" in text
    assert "closes 60 % of the gap to the teacher" in text
    assert ". " not in text
    assert text.endswith(".")


def test_did_not_pay_off():
    text = verdict(_result((0.89, 0.90, 0.88), (0.80, 0.81, 0.79)))
    assert text.startswith("Distillation did not pay off")
    assert "9.00 points worse" in text


def test_equal():
    text = verdict(_result((0.9, 0.9), (0.9, 0.9)))
    assert text.startswith("Distillation did not pay off: both students reach the same accuracy")


@pytest.mark.parametrize(("distilled", "side"), [(0.905, "ahead of"), (0.895, "behind")])
def test_within_evaluation_noise(distilled, side):
    text = verdict(_result((0.90,) * 3, (distilled,) * 3))
    assert text.startswith("Whether distillation paid off cannot be told")
    assert side in text
    # sqrt((0.09 + p (1 - p)) / 1000): two independent shares of 1,000 examples
    error = ((0.09 + distilled * (1 - distilled)) / 1000) ** 0.5
    noise = 100 * stats.t.ppf(0.975, 999) * error
    assert f"within the noise of ±{noise:.2f} points at 95 % confidence" in text


def test_within_seed_spread():
    text = verdict(_result((0.80, 0.90, 0.85), (0.90, 0.80, 0.89), evaluation_error=0.0))
    assert "cannot be told" in text
    assert "1.33 points ahead" in text


def test_paired_evaluation_error_sharpens():
    result = _result((0.90,) * 3, (0.905,) * 3)
    assert "cannot be told" in verdict(result)
    assert verdict({**result, "evaluation_error": 0.001}).startswith("Distillation paid off")


def test_seeds_are_paired():
    # The seeds spread by 5 points, but each one gains the same.
    text = verdict(_result((0.80, 0.90, 0.85), (0.83, 0.93, 0.88), evaluation_error=0.001))
    assert text.startswith("Distillation paid off: the distilled student is 3.00 points better")


def test_lower_is_better():
    worse = _result((0.5, 0.5), (0.9, 0.9), metric="mse", higher_is_better=False)
    assert verdict({**worse, "evaluation_error": 0.01}).startswith("Distillation did not pay off")
    better = _result((0.9, 0.9), (0.5, 0.5), (0.4,), metric="mse", higher_is_better=False)
    text = verdict({**better, "evaluation_error": 0.01})
    assert "is 0.4000 better" in text
    assert "closes 80 %" in text


@pytest.mark.parametrize("metric", ["accuracy", "pearson"])
def test_one_seed_claims_nothing(metric):
    text = verdict(_result((0.10,), (0.99,), metric=metric, evaluation_error=1e-6))
    assert text.startswith("Whether distillation paid off cannot be told from one seed")
    assert "ahead of the student alone" in text
    assert "spread over seeds unknown" in text
    assert "run more seeds, e.g. seeds=[0,1,2]" in text


def test_seeds_that_gain_the_same_need_the_noise_of_examples():
    alike = _result((0.5, 0.5), (0.75, 0.75), metric="f1")
    text = verdict({**alike, "evaluation_error": float("nan")})
    assert text.startswith("Whether distillation paid off cannot be told")
    assert "evaluate on more" in text
    # With it, the part that seeds would show, too, is not left out.
    noise = gain_noise({**alike, "evaluation_error": 0.1, "interaction_error": 0.1})
    assert noise.margin == pytest.approx(stats.t.ppf(0.975, 999) * 0.1)


def test_the_margin_of_seeds_alone_is_students_t():
    gains = np.array([0.01, 0.04, 0.02])
    result = _result((0.8, 0.8, 0.8), 0.8 + gains, evaluation_error=0.0)
    noise = gain_noise(result)
    assert noise.margin == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(gains))
    assert (noise.seeds, noise.examples) == (pytest.approx(noise.margin), 0.0)
    interval = stats.ttest_1samp(gains, 0.0).confidence_interval()
    assert noise.margin == pytest.approx((interval.high - interval.low) / 2)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_the_margin_adds_both_variances(seeds):
    gains = np.array([0.01, 0.04, 0.02, 0.0, 0.03])[:seeds]
    error, interaction = 0.02, 0.012
    noise = gain_noise(
        _result((0.5,) * seeds, 0.5 + gains, evaluation_error=error, interaction_error=interaction)
    )
    over_seeds, shared = gains.var(ddof=1) / seeds, error**2 - interaction**2
    total = over_seeds + shared
    share = over_seeds / total
    t = functools.partial(stats.t.ppf, 0.975)
    satterthwaite = t(total**2 / (over_seeds**2 / (seeds - 1) + shared**2 / 999))
    cochran = share * t(seeds - 1) + (1 - share) * t(999)
    weight = {2: 1.0, 3: share, 4: share, 5: 0.0}[seeds]
    factor = weight * cochran + (1 - weight) * satterthwaite
    assert noise.margin == pytest.approx(factor * total**0.5)
    assert noise.seeds == pytest.approx(factor * over_seeds**0.5)
    assert noise.examples == pytest.approx(factor * shared**0.5)


# Standard deviations of a seed's own luck, of examples that favour one arm in every seed, and of
# luck with single answers, beside 1 for how hard an example is.
NOISES = {
    "seeds": (0.3, 0.0, 0.0),
    "examples": (0.0, 0.5, 0.0),
    "answers": (0.0, 0.0, 0.7),
    "all": (0.06, 0.5, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_five_in_a_hundred_verdicts_are_false(seeds, noise):
    """Both arms are equally good, so that whatever is claimed is false."""
    luck, shared, single = NOISES[noise]
    random = np.random.default_rng(seeds)
    examples, trials, claims = 1000 if noise == "answers" else 500, 2500, 0
    labels = np.zeros(examples, int)
    for _ in range(trials):
        ability = random.normal(size=examples) + luck * random.normal(size=(2, seeds, 1))
        ability = ability + shared * random.normal(size=(2, 1, examples))
        right = ability + single * random.normal(size=(2, seeds, examples)) > -0.8
        logits = np.stack([right, ~right], -1).astype(np.float64)  # [2, S, N, 2]
        error = difference_error("classification", *logits, labels, "accuracy")
        errors = {"evaluation_error": error.examples, "interaction_error": error.interaction}
        text = verdict(_result(*right.mean(-1), examples=examples, **errors))
        claims += text.startswith("Distillation paid off") or " worse than " in text
    rate = claims / trials
    assert rate == pytest.approx(0.05, abs=0.01), f"{100 * rate:.1f} %"


def test_student_better_than_teacher():
    assert "as good as the teacher or better" in verdict(_result((0.8,) * 3, (0.96,) * 3))
    assert "alone is already as good" in verdict(_result((0.95,) * 3, (0.99,) * 3, (0.9,)))


def test_not_a_number():
    assert "cannot be judged" in verdict(_result((0.8, 0.8), (float("nan"), 0.8)))


def test_mean_and_spread():
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([1.0]) == (1.0, None)
