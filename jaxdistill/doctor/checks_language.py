"""Checks of language models: documents, losses, and what the teacher knows."""

from __future__ import annotations

import numpy as np

from jaxdistill.data.text.ends import ends_of
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.doctor.checks_teacher import says_nothing
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.evaluation.metrics import compute_metrics

_FEW_TOKENS = 10_000


def documents(examined: Examined) -> Check:
    """Check what was left out of the documents, and how much there is to measure on."""
    notes, healthy = examined.dataset.notes, True
    for part, split in examined.splits.items():
        silent, rows = notes.get(f"{part}.silent", 0), notes.get(f"{part}.rows", 0)
        if silent:
            healthy = False
            yield Finding(
                "warning",
                "documents",
                f"{silent:,} of {rows:,} chats of {part} have no turn of the assistant that is "
                "learned and are left out; are their roles named otherwise?",
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
        train = examined.dataset.train
        message = f"{notes.get('train.rows', 0):,} documents, {notes.get('train.empty', 0):,} empty"
        share = 100 * train.lengths.sum() / train.labels.size
        yield Finding("ok", "documents", f"{message}; {share:.2f} % of the packed slots are real")


_ODD = {
    "tools": "have tools that the chat template does not write, so the models never see them; take "
    "a tokenizer whose template does, or describe them in the system's message",
    "messages": "have a message of which the chat template writes nothing, so it is never read; "
    "are the roles named as the template expects?",
    "reasoning": "have an answer whose reasoning the chat template does not write, so it is not "
    "learned; put it into the content, or take a tokenizer whose template does",
    "empty": "have an answer that says nothing, from which the student learns to say nothing; "
    "leave them out, or give these turns weight: 0",
    "unprompted": "have an answer before which the chat template writes something else than what "
    "it puts there to make a model answer, such as an opened <think>: in use, the student is asked "
    "otherwise than it was trained",
}


def chats(examined: Examined) -> Check:
    """Check what the chat template makes of the chats."""
    notes, healthy = examined.dataset.notes, True
    for part in examined.splits:
        rows = notes.get(f"{part}.rows", 0)
        for name, problem in _ODD.items():
            count = notes.get(f"{part}.chats.{name}", 0)
            if count:
                healthy = False
                yield Finding(
                    "warning", "chats", f"{count:,} of {rows:,} chats of {part} {problem}"
                )
    if healthy and "train.chats.split" in notes:
        split, rows = notes["train.chats.split"], notes["train.rows"]
        message = "the chat template writes all that the chats of train hold"
        if split:
            message += (
                f"; {split:,} of {rows:,} are read once for each answer, since it writes earlier "
                "turns otherwise when others follow"
            )
        yield Finding("ok", "chats", message)


def ends(examined: Examined) -> Check:
    """Check that the tokens that end a text or a turn are special, and that one is learned."""
    if examined.dataset.tokenizer is None:
        return
    found = ends_of(examined.config, examined.dataset)
    tokenizer = load_tokenizer(examined.dataset.tokenizer)
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    plain = [token for token in found if token not in special]
    if plain:
        yield Finding(
            "warning",
            "ends",
            f"what models write ends at the token {plain[0]} "
            f"({tokenizer.convert_ids_to_tokens(plain[0])!r}), which is an ordinary one of the "
            "tokenizer; is eos_token_id in generation_config.json (or config.json) of the models "
            "meant for it?",
        )
    if not found:
        yield Finding(
            "warning",
            "ends",
            "neither the tokenizer nor a generation_config.json names a token that ends a text: "
            "what models write goes on to max_new_tokens; set eos_token of the tokenizer",
        )
        return
    labels = examined.dataset.train.labels
    learned = [token for token in found if (labels == token).any()]
    if learned:
        yield Finding("ok", "ends", f"the tokens {learned} end a text, and the student learns them")
    else:
        yield Finding(
            "warning",
            "ends",
            f"none of the tokens that end a text ({list(found)}) is learned, so the student never "
            "learns to stop; add the token that ends a turn to eos_token_id in the "
            "generation_config.json of the teacher, or let the chat template write it (inside of "
            "its {% generation %} marks, where it has them)",
        )


def losses(examined: Examined) -> Check:
    """Say how the losses come from hidden states."""
    tokens = examined.config.train.batch_size // examined.config.train.accumulate
    tokens *= examined.dataset.train.labels.shape[1]
    whole = f"logits of {tokens:,} tokens x {examined.dataset.vocabulary:,} classes"
    if examined.config.losses == "fused":
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


def teacher_skill(examined: Examined) -> Check:
    """Check the teacher against saying every token as often as it occurs."""
    scores, truth = examined.teacher_logits, examined.teacher_labels
    if scores is None or truth is None:
        return
    nothing = says_nothing(scores[:, 0])
    if nothing is not None:
        yield nothing
        return
    known, asked = examined.dataset.train.labels, examined.dataset.validation.labels
    if examined.config.ranking_metric == "accuracy":
        found = compute_metrics("language_model", scores, truth, ["accuracy"])["accuracy"]
        blind = _blind_accuracy(known, asked)
        message = (
            f"the teacher's accuracy is {100 * found:.1f} %; always saying the token that occurs "
            f"most in training has {100 * blind:.1f} %"
        )
        useless = found <= blind
    else:  # bits per byte rank as perplexity does
        found = compute_metrics("language_model", scores, truth, ["perplexity"])["perplexity"]
        blind = _blind_perplexity(known, asked)
        message = (
            f"the teacher's perplexity is {found:.2f}; saying every token as often as it occurs in "
            f"training has {blind:.2f}"
        )
        useless = found >= blind
    if useless:
        fix = (
            "give a teacher of this language, or let finetune train it"
            if examined.config.finetune is None
            else "train it longer or with another finetune.learning_rate"
        )
        yield Finding("fatal", "teacher skill", f"{message}; it has nothing to teach: {fix}")
    else:
        yield Finding("ok", "teacher skill", message)
