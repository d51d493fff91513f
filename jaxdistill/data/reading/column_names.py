"""Names that columns usually have in published data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "response"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("sentence_1", "sentence_2"),
    ("text_1", "text_2"),
    ("s1", "s2"),
    ("#1 string", "#2 string"),
)
TEXTS = ("sentence", "text", "content", "review", "question", "query", "comment_text")
WEAKER_TEXTS = (
    "text_a",
    "text1",
    "text_1",
    "sentence1",
    "sentence_1",
    "comment",
    "tweet",
    "utterance",
    "message",
    "review_body",
    "review_text",
    "reviewtext",
    "document",
    "article",
    "passage",
    "body",
    "title",
    "headline",
    "description",
    "summary",
    "subject",
    "abstract",
)
"""Taken where a file has none of `TEXTS`, beside which they often stand."""
IMAGES = ("image", "img", "image_path", "img_path", "image_file")
LABELS = ("label", "labels", "target", "class", "score")
WEAKER_LABELS = (
    "gold_label",
    "is_duplicate",
    "quality",
    "entailment_judgment",
    "sentiment",
    "airline_sentiment",
    "intent",
    "category",
    "class index",
    "coarse_label",
    "fine_label",
    "stars",
    "rating",
    "overall",
)
SCORES = ("score", "label", "labels", "target")
WEAKER_SCORES = (
    "similarity",
    "similarity_score",
    "relatedness_score",
    "rating",
    "stars",
    "overall",
)
CHATS = ("messages", "conversation", "conversations")
ANSWERED = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
)
"""Columns of a prompt and of what is to be learned behind it."""
ANSWERS = (
    "answer",
    "answers",
    "response",
    "completion",
    "output",
    "summary",
    "highlights",
    "target",
    "chosen",
    "reply",
    "solution",
    "translation",
)
"""Columns that a text may be the question to, where it is none of `ANSWERED`."""
CONTEXTS = ("input", "context")
"""Columns of what a question is about, which it is followed by."""
SYSTEMS = ("system", "system_prompt")
"""Columns of what a chat begins with."""
_USUAL = frozenset(
    {
        *(name for pair in (*PAIRS, *ANSWERED) for name in pair),
        *TEXTS,
        *WEAKER_TEXTS,
        *IMAGES,
        *LABELS,
        *WEAKER_LABELS,
        *SCORES,
        *WEAKER_SCORES,
        *CHATS,
        *ANSWERS,
        *CONTEXTS,
        "id",
        "idx",
        "index",
    }
)


def is_usual(name: str) -> bool:
    """Say whether a column of a published data set is usually called so, in any case."""
    return name.strip().casefold() in _USUAL


def by_usual_name(columns: Iterable[str]) -> Mapping[str, str]:
    """Return columns by their lower-case names; one that is written so is taken before others."""
    found: dict[str, str] = {}
    for name in columns:
        plain = name.strip().casefold()
        if plain not in found or name == plain:
            found[plain] = name
    return found
