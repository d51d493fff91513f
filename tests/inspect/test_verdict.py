"""The verdict says what the figures say, and no more."""

from typing import Any

import pytest

from jaxdistill.inspect.verdict import mean_and_spread, verdict


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
    # 2 * sqrt((0.09 + p (1 - p)) / 1000): two independent shares of 1,000 examples
    noise = 200 * ((0.09 + distilled * (1 - distilled)) / 1000) ** 0.5
    assert f"within the noise of ±{noise:.2f} points" in text


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


def test_one_seed_says_so():
    text = verdict(_result((0.80,), (0.90,)))
    assert text.startswith("Distillation paid off")
    assert "one seed" in text
    assert "spread over seeds unknown" in text
    unknown = _result((0.5,), (0.9,), metric="pearson")
    assert "run more seeds" in verdict(unknown)


def test_student_better_than_teacher():
    assert "as good as the teacher or better" in verdict(_result((0.8,) * 3, (0.96,) * 3))
    assert "alone is already as good" in verdict(_result((0.95,) * 3, (0.99,) * 3, (0.9,)))


def test_not_a_number():
    assert "cannot be judged" in verdict(_result((0.8, 0.8), (float("nan"), 0.8)))


def test_mean_and_spread():
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([1.0]) == (1.0, None)
