"""Checks of text: tokenizers, vocabularies, lengths, token types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxdistill.data.text.tokenize import has_tokenizer, load_tokenizer
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.errors import DataError

_PROBES = 256
_CUT_SHARE = 0.01


def tokenizers(examined: Examined) -> Check:
    """Check that the models read the texts' tokens as the words they stand for."""
    teacher, student = examined.folder("teacher"), examined.folder("student")
    if student is not None and teacher is not None and teacher != student:
        yield from _same_words(examined, "teacher", teacher, "student", student)
    reader = examined.dataset.tokenizer
    first = teacher or student
    given = examined.config.data.tokenizer is not None
    if given and reader is not None and first not in (None, reader) and has_tokenizer(first):
        name = "student" if teacher is None else "teacher"
        yield from _same_words(examined, "data", reader, name, first)


def _same_words(examined: Examined, one: str, whose: Path, other: str, others: Path) -> Check:
    """Compare the tokenizers of two folders; `one` is what the other has to agree with."""
    try:
        ours, theirs = load_tokenizer(others), load_tokenizer(whose)
    except DataError as error:
        yield Finding(
            "warning",
            "tokenizer",
            f"the vocabularies of {one} and {other} cannot be compared: {error}",
        )
        return
    fix = (
        "the student would read other words; take a student made with the teacher's tokenizer, "
        "or some of the teacher's layers with student.layers"
    )
    if one == "data":
        fix = f"the {other} would read other words; drop data.tokenizer"
    differ = vocabulary_difference(theirs.get_vocab(), ours.get_vocab())
    if differ:
        token, (there, here) = next(iter(differ.items()))
        yield Finding(
            "fatal",
            "tokenizer",
            f"{len(differ):,} of {len(theirs.get_vocab()):,} tokens have another id in the "
            f"{other}'s vocabulary or are missing there (e.g. {token!r}: {one} {there}, {other} "
            f"{here}); {fix}",
        )
        return
    texts = [text for column in examined.dataset.validation.texts for text in column[:_PROBES]]
    differing = [text for text in texts if theirs(text)["input_ids"] != ours(text)["input_ids"]]
    if differing:
        yield Finding(
            "fatal",
            "tokenizer",
            f"same vocabulary, but the {other}'s tokenizer cuts {len(differing)} of {len(texts)} "
            f"texts into other tokens (e.g. {differing[0][:60]!r}; is one of them lower-casing?); "
            f"{fix}",
        )
        return
    yield Finding("ok", "tokenizer", f"{len(theirs.get_vocab()):,} tokens with the same ids")


def vocabulary_difference(
    theirs: dict[str, int], ours: dict[str, int]
) -> dict[str, tuple[int, int | None]]:
    """Return the teacher's tokens whose id is another in the student's vocabulary, with both."""
    return {token: (i, ours.get(token)) for token, i in theirs.items() if ours.get(token) != i}


def vocabulary(examined: Examined) -> Check:
    """Check that every token id has a row in both embedding tables."""
    tokens = [split.inputs.token_ids() for split in examined.splits.values()]
    largest = max(int(ids.max(initial=0)) for ids in tokens)
    sizes = {name: model.sizes.vocabulary for name, model in examined.models.items()}
    small = {name: size for name, size in sizes.items() if size is not None and largest >= size}
    for name, size in small.items():
        yield Finding(
            "fatal",
            "vocabulary",
            f"the data has the token id {largest}, the {name} has {size} embeddings; set "
            f"vocab_size of the {name} to at least {largest + 1}, or take the tokenizer it was "
            "trained with",
        )
    beyond = _beyond(examined, {name: size for name, size in sizes.items() if size is not None})
    if beyond is not None and not small:
        yield Finding("warning", "vocabulary", beyond)
    elif not small:
        known = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size is not None)
        yield Finding("ok", "vocabulary", f"token ids up to {largest:,}; embeddings: {known}")


def _beyond(examined: Examined, sizes: Mapping[str, int]) -> str | None:
    """Say which tokens the tokenizer knows and a model does not, though the data has none."""
    folder = examined.dataset.tokenizer or examined.folder("teacher") or examined.folder("student")
    if folder is None or not sizes:
        return None
    try:
        words = load_tokenizer(folder).get_vocab()
    except DataError:
        return None  # What was tokenized before came from a cache.
    name, size = min(sizes.items(), key=lambda item: item[1])
    lost = sorted((index, word) for word, index in words.items() if index >= size)
    if not lost:
        return None
    return (
        f"{len(lost)} of {len(words):,} tokens of the tokenizer have no embedding in the {name}, "
        f"which has {size:,} (e.g. {lost[0][1]!r}): a text with one of them cannot be read; resize "
        "the model to its tokenizer (in transformers: resize_token_embeddings)"
    )


def lengths(examined: Examined) -> Check:
    """Check the longest row against the position tables, and how many rows are cut off."""
    limit, notes = examined.config.data.max_length, examined.dataset.notes
    positions = {name: model.sizes.positions for name, model in examined.models.items()}
    short = {name: n for name, n in positions.items() if n is not None and limit > n}
    for name, count in short.items():
        yield Finding(
            "fatal",
            "length",
            f"data.max_length is {limit}, the {name} has {count} positions; set "
            f"data.max_length={count}",
        )
    if short:
        return
    most = min((n for n in positions.values() if n is not None), default=None)
    healthy = True
    for part in examined.splits:
        cut, rows = notes.get(f"{part}.cut", 0), notes.get(f"{part}.rows", 0)
        if not rows or cut / rows <= _CUT_SHARE:
            continue
        healthy = False
        fix = f"raise data.max_length{f' (up to {most})' if most else ''}"
        if most is not None and most <= limit:
            fix = "the models have no more positions: split the texts, or take models with more"
        yield Finding(
            "warning",
            "length",
            f"{cut:,} of {rows:,} rows of {part} ({100 * cut / rows:.1f} %) are cut to "
            f"{limit} tokens; {fix}",
        )
    if healthy:
        cut = sum(notes.get(f"{part}.cut", 0) for part in examined.splits)
        yield Finding("ok", "length", f"{cut:,} rows are longer than {limit} tokens and cut")


def token_types(examined: Examined) -> Check:
    """Check that models which tell the first text of a pair from the second can do so."""
    splits = examined.splits.values()
    if not any(len(split.texts) == 2 for split in splits):
        return
    largest = max(split.inputs.sizes()["token_types"] for split in splits) - 1
    healthy = True
    for name, model in examined.models.items():
        count = model.sizes.token_types
        problem = _types_problem(name, count, largest)
        if problem is not None:
            healthy = False
            level = "fatal" if count is not None and largest >= count else "warning"
            yield Finding(level, "token types", problem)
    if healthy:
        yield Finding("ok", "token types", f"pairs of texts with {largest + 1} token type(s)")


def _types_problem(name: str, count: int | None, largest: int) -> str | None:
    """Say what is wrong where a model knows `count` token types and the data has `largest + 1`."""
    if count is not None and largest >= count:
        return (
            f"the data has the token type {largest}, the {name} knows {count}; take the tokenizer "
            f"the {name} was trained with, or a {name} with type_vocab_size={largest + 1}"
        )
    if count is not None and count > 1 and largest == 0:
        return (
            f"the data has pairs of texts and the {name} has {count} token types, but the "
            f"tokenizer marks both texts as type 0; check that it belongs to the {name}"
        )
    if count is None and largest > 0 and name == "student":
        return (
            f"the data has {largest + 1} token types, the student has none and tells the two texts "
            "apart by their separators only; take a student of the teacher's family if it falls "
            "behind"
        )
    return None
