"""The figures of a report, each as an SVG that can stand inside a page."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdistill.evaluation.metrics import classes, decisions, f1_per_class, values
from jaxdistill.evaluation.uncertainty import (
    calibration,
    class_confidences,
    decision_confidences,
)
from jaxdistill.evaluation.verdict import is_share

COLORS = {"teacher": "#6b6b6b", "student alone": "#d1740f", "student distilled": "#1f6fb2"}
Curves = Mapping[str, Sequence[Sequence[tuple[int, float]]]]
"""Model -> seeds -> (step, value)."""
Confidences = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Figures = Iterator[tuple[str, str, str]]
"""Title, caption and address of each figure."""

_FEW = 12
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "jaxdistill",
    "text.parse_math": False,  # a label may hold `$`, and then need not be sound mathematics
}
_PLAIN: Any = {**_STYLE, "axes.grid": False}


def class_figures(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> Figures:
    """Yield the figures of a classification; `logits` maps a model to `[S, N, C]`."""
    yield (
        "Confusion matrix",
        "Rows are labels, columns what the distilled student said; mean counts over seeds.",
        confusion(logits["student distilled"], labels, names),
    )
    yield _calibration(class_confidences, logits, labels)


def set_figures(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> Figures:
    """Yield the figures of a multi-label task; `logits` maps a model to `[S, N, C]`."""
    yield "F1 per label", "Mean over seeds.", label_scores(logits, labels, names)
    yield _calibration(decision_confidences, logits, labels)


def value_figures(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> Figures:
    """Yield the figure of a regression; `logits` maps a model to `[S, N, 1]`."""
    yield "Predictions", "First seed of each model.", scatter(logits, labels)


def learning_curves(curves: Mapping[str, Curves], teacher: float | None, metric: str) -> str:
    """Draw what each evaluation of both students gave: seeds faint, their mean strong.

    Args:
      curves: by panel title: the metric's name, `loss`.
      teacher: the teacher's metric, a dashed line.
      metric: the panel to draw it in; shares are drawn in percent.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(curves), 3.2), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(curves)))
        for axes, (title, models) in zip(panels, curves.items(), strict=True):
            scale = 100 if title != "loss" and is_share(title) else 1
            for name, seeds in models.items():
                for seed in seeds:
                    steps, values = zip(*seed, strict=True)
                    axes.plot(steps, scale * np.array(values), color=COLORS[name], alpha=0.25, lw=1)
                steps, values = mean_curve(seeds)
                axes.plot(steps, scale * values, color=COLORS[name], lw=2, label=name)
            if title == metric and teacher is not None:
                level, color = scale * teacher, COLORS["teacher"]
                axes.axhline(level, color=color, ls="--", lw=1.2, label="teacher")
            axes.set(title=f"{title}{' (%)' if scale == 100 else ''}", xlabel="step")
        panels[0].legend(loc="best")
        return _svg(figure)


def mean_curve(seeds: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Average over seeds at the steps that every seed has."""
    tables = [dict(seed) for seed in seeds]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array(steps), np.array([np.mean([table[step] for table in tables]) for step in steps])


def confusion(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """Draw how labels (rows) were answered (columns), averaged over seeds.

    Args:
      logits: `[S, N, C]`.
      labels: `[N]` ids.
      names: names of the classes.
    """
    count = logits.shape[-1]
    counts = confusion_counts(logits, labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.45 * count, 3.2, 7.0))
    names = _drawable(names)
    with mpl.rc_context(_PLAIN):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if count <= 40:
            long = max(map(len, names)) > 3
            axes.set_xticks(
                range(count), names, rotation=45 if long else 0, ha="right" if long else "center"
            )
            axes.set_yticks(range(count), names)
        if count <= _FEW:
            for row, column in np.argwhere(counts > 0):
                cell = float(counts[row, column])
                axes.text(
                    column,
                    row,
                    f"{cell:.0f}" if cell >= 10 or cell.is_integer() else f"{cell:.1f}",
                    ha="center",
                    va="center",
                    color="white" if shares[row, column] > 0.5 else "black",
                )
        axes.set(xlabel="predicted", ylabel="label", title="student distilled")
        return _svg(figure)


def confusion_counts(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count how often a label (row) was answered by a class (column): `[C, C]`, mean over seeds."""
    counts = np.zeros((logits.shape[-1],) * 2)
    for seed in logits:
        np.add.at(counts, (labels, classes(seed)), 1 / len(logits))
    return counts


def calibration_plot(
    confidences: Confidences, logits: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[str, dict[str, float]]:
    """Draw accuracy against confidence of every model, all seeds together.

    Args:
      confidences: `(logits) -> (confidence, prediction)`, in the order of labels.
      logits: model -> `[S, N, C]`.
      labels: `[N]` or `[N, C]`.

    Returns:
      the figure, and each model's expected calibration error.
    """
    errors = {}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        for name, seeds in logits.items():
            together = seeds.reshape(-1, seeds.shape[-1])  # the predictions of all seeds as one set
            found = calibration(*confidences(together), np.concatenate([labels] * len(seeds)))
            errors[name] = found.error
            filled = found.counts > 0
            axes.plot(
                found.confidence[filled],
                found.accuracy[filled],
                marker="o",
                ms=4,
                color=COLORS[name],
                label=f"{name} (error {100 * found.error:.1f} %)",
            )
        axes.set(xlabel="confidence", ylabel="accuracy", aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="best")
        return _svg(figure), errors


def label_scores(logits: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> str:
    """Draw the F1 of each label of a multi-label task, averaged over seeds."""
    count = labels.shape[-1]
    place = np.arange(count)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, float(np.clip(0.45 * count, 2.5, 12))), layout="constrained")
        axes = figure.subplots()
        for shift, (name, seeds) in enumerate(logits.items()):
            scores = np.mean(
                [f1_per_class(decisions(seed), labels, count) for seed in seeds], axis=0
            )
            axes.barh(place + 0.27 * (shift - 1), scores, 0.25, color=COLORS[name], label=name)
        axes.set_yticks(place, _drawable(names))
        axes.invert_yaxis()
        axes.set(xlabel="F1", xlim=(0, 1))
        axes.legend(loc="lower right")
        return _svg(figure)


def scatter(logits: Mapping[str, np.ndarray], labels: np.ndarray) -> str:
    """Draw predictions of a regression against labels, the first seed of every model."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * len(logits), 3.2), layout="constrained")
        panels: list[Axes] = list(np.atleast_1d(figure.subplots(1, len(logits), sharey=True)))
        ends = [float(labels.min()), float(labels.max())]
        for axes, (name, seeds) in zip(panels, logits.items(), strict=True):
            predicted = values(seeds[0])
            axes.plot(ends, ends, color="black", lw=0.8, ls=":")
            axes.scatter(labels, predicted, s=6, alpha=0.4, color=COLORS[name], rasterized=True)
            axes.set(title=name, xlabel="label")
        panels[0].set_ylabel("prediction")
        return _svg(figure)


def _calibration(
    confidences: Confidences, logits: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[str, str, str]:
    plot, errors = calibration_plot(confidences, logits, labels)
    listed = ", ".join(f"{name} {100 * error:.1f} %" for name, error in errors.items())
    return (
        "Calibration",
        f"Accuracy against confidence, all seeds together. Expected calibration error: {listed}.",
        plot,
    )


def _drawable(names: Sequence[str]) -> list[str]:
    """Replace what neither a font nor a page can hold: control characters, halves of others."""
    return [
        "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
        for name in names
    ]


def _svg(figure: Figure) -> str:
    """Return a `data:` address, which keeps the names inside one figure from meeting another's."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
