"""What answers reach that are the same for every example, and how far answers go with labels."""

from __future__ import annotations

import math

import numpy as np

from jaxdistill.evaluation.metrics import decisions, matthews, spearman

_FEW_CLASSES = 16


def common_classes(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Return logits `[K, C]` of each of the commonest classes among ids `[N]`."""
    ids, counts = np.unique(labels, return_counts=True)
    common = ids[np.argsort(-counts, kind="stable")][:_FEW_CLASSES].astype(int)
    return np.eye(outputs)[common]


def common_sets(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Return logits `[3, C]` of the commonest row of `[N, C]`, of no label and of every label."""
    rows, counts = np.unique(labels, axis=0, return_counts=True)
    commonest = np.where(rows[counts.argmax()] > 0, 1.0, -1.0)
    return np.stack([commonest, -np.ones(outputs), np.ones(outputs)])


def mean_value(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Return the mean of numbers `[N]`: `[1, C]`."""
    return np.full((1, outputs), np.mean(np.asarray(labels, np.float64)))


def class_association(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return Matthews' correlation of classes."""
    return matthews(logits, labels)


def decision_association(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return Pearson's correlation of the deviations of decisions from their label's mean."""
    predicted, meant = decisions(logits).astype(np.float64), np.asarray(labels, np.float64)
    predicted, meant = predicted - predicted.mean(0), meant - meant.mean(0)
    spread = math.sqrt(float(np.square(predicted).sum() * np.square(meant).sum()))
    return float((predicted * meant).sum()) / spread if spread > 0 else 0.0


def value_association(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's correlation of numbers."""
    return spearman(logits, labels)
