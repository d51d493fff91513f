"""Checks of language models: documents, losses, and what the teacher knows."""

from __future__ import annotations

import numpy as np

from jaxdistill.inspect.findings import Check, Finding, Setup
from jaxdistill.inspect.metrics import compute_metrics

_FEW_TOKENS = 10_000


def documents(setup: Setup) -> Check:
    """Check what was left out of the documents, and how much there is to measure on."""
    notes, healthy = setup.dataset.notes, True
    for part, split in setup.splits.items():
        silent, rows = notes.get(f"{part}.silent", 0), notes.get(f"{part}.rows", 0)
        if silent:
            healthy = False
            yield Finding(
                "warning",
                "documents",
                f"{silent:,} of {rows:,} chats of {part} have no turn of the assistant and are "
                "left out; are their roles named otherwise?",
            )
        tokens = int((split.labels >= 0).sum())
        if part != "train" and tokens < _FEW_TOKENS:
            healthy = False
            yield Finding(
                "warning",
                "documents",
                f"{part} has {tokens:,} tokens to predict, which measure little; hold out more",
            )
    if healthy:
        train = setup.dataset.train
        told = f"{notes.get('train.rows', 0):,} documents, {notes.get('train.empty', 0):,} empty"
        share = 100 * train.lengths.sum() / train.labels.size
        yield Finding("ok", "documents", f"{told}; {share:.2f} % of the packed slots are real")


def losses(setup: Setup) -> Check:
    """Say how the losses come from hidden states."""
    tokens = setup.config.train.batch_size // setup.config.train.accumulate
    tokens *= setup.dataset.train.labels.shape[1]
    whole = f"logits of {tokens:,} tokens x {setup.dataset.vocabulary:,} classes"
    if setup.config.losses == "fused":
        yield Finding("ok", "losses", f"fused, in chunks of tokens: {whole} are never built")
    else:
        yield Finding("ok", "losses", f"dense: {whole} are built for each model")


def _blind_perplexity(known: np.ndarray, asked: np.ndarray) -> float:
    """Return the perplexity of the frequencies of `known` labels, each counted once more."""
    known, asked = known[known >= 0], asked[asked >= 0]
    counts = 1.0 + np.bincount(known, minlength=int(max(known.max(), asked.max())) + 1)
    return float(np.exp(-np.log(counts / counts.sum())[asked].mean()))


def _blind_accuracy(known: np.ndarray, asked: np.ndarray) -> float:
    """Return how often the commonest of `known` labels is right."""
    return float((asked[asked >= 0] == np.bincount(known[known >= 0]).argmax()).mean())


def teacher_skill(setup: Setup) -> Check:
    """Check the teacher against saying every token as often as it occurs."""
    scores, truth = setup.teacher_logits, setup.teacher_labels
    if scores is None or truth is None:
        return
    known, asked = setup.dataset.train.labels, setup.dataset.validation.labels
    if setup.config.ranking_metric == "accuracy":
        found = compute_metrics("language_model", scores, truth, ["accuracy"])["accuracy"]
        blind = _blind_accuracy(known, asked)
        told = (
            f"the teacher's accuracy is {100 * found:.1f} %; always saying the token that occurs "
            f"most in training has {100 * blind:.1f} %"
        )
        useless = found <= blind
    else:  # bits per byte rank as perplexity does
        found = compute_metrics("language_model", scores, truth, ["perplexity"])["perplexity"]
        blind = _blind_perplexity(known, asked)
        told = (
            f"the teacher's perplexity is {found:.2f}; saying every token as often as it occurs in "
            f"training has {blind:.2f}"
        )
        useless = found >= blind
    if useless:
        fix = (
            "give a teacher of this language, or let finetune train it"
            if setup.config.finetune is None
            else "train it longer or with another finetune.learning_rate"
        )
        yield Finding("fatal", "teacher skill", f"{told}; it has nothing to teach: {fix}")
    else:
        yield Finding("ok", "teacher skill", told)
