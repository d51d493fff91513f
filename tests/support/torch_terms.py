"""What the terms of a configuration are by the papers, in PyTorch, and how schedules move."""

from __future__ import annotations

from typing import Any

import numpy as np


def value_at(value: float | dict[str, Any], step: int, total: int) -> float:
    """A number, or what a configured linear schedule gives at a step of a run of `total`."""
    if not isinstance(value, dict):
        return value
    steps = value["over"] * total if value["over"] <= 1 else value["over"]
    return value["start"] + (value["end"] - value["start"]) * min(step / steps, 1.0)


def rate_at(name: str, warmup: int, step: int, total: int) -> float:
    """The share of the peak that a learning rate has at a step."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return {"linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2, "constant": 1.0}[name]


def values_of(
    term: dict[str, Any], student: Any, teacher: Any, labels: Any, step: int, total: int
) -> Any:
    """A term's values by example or token, from logits `[..., C]`, without its weight."""
    import torch

    warmth = value_at(term.get("temperature", 1.0), step, total)

    def kl(log_a: Any, log_b: Any) -> Any:
        return torch.nn.functional.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)

    if term["loss"] == "cross_entropy":
        flat = torch.nn.functional.cross_entropy(
            student.reshape(-1, student.shape[-1]),
            labels.reshape(-1),
            reduction="none",
            label_smoothing=term.get("label_smoothing", 0.0),
        )
        return flat.reshape(labels.shape)
    if term["loss"] == "mse_logits":
        return ((student - teacher) ** 2).mean(-1)
    if term["loss"] == "bernoulli_kl":
        p, q = (torch.sigmoid(side / warmth) for side in (teacher, student))
        cross = torch.nn.functional.binary_cross_entropy
        return warmth**2 * (cross(q, p, reduction="none") - cross(p, p, reduction="none"))
    log_q, log_p = (torch.log_softmax(side / warmth, -1) for side in (student, teacher))
    if term["loss"] == "forward_kl":
        return warmth**2 * kl(log_p, log_q)
    if term["loss"] == "reverse_kl":
        return warmth**2 * kl(log_q, log_p)
    assert term["loss"] == "jsd", term
    beta = term["beta"]
    log_m = torch.log(beta * log_p.exp() + (1 - beta) * log_q.exp())
    return warmth**2 * (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m))
