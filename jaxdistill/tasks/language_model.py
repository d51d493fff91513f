"""The next token of documents and chats."""

from __future__ import annotations

from jaxdistill.tasks.task import Metric, Task

TASKS = (
    Task(
        name="language_model",
        summary="The next token of documents, completions and chats",
        outputs="tokens",
        loss="cross_entropy",
        soft={"loss": "forward_kl"},
        metrics=(
            Metric(
                "perplexity",
                "jaxdistill.evaluation.lm_scores:perplexity",
                higher_is_better=False,
                decimals=2,
            ),
            Metric(
                "bits_per_byte",
                "jaxdistill.evaluation.lm_scores:bits_per_byte",
                higher_is_better=False,
                decimals=3,
            ),
            Metric("accuracy", "jaxdistill.evaluation.lm_scores:token_accuracy", kind="share"),
        ),
        measured=("perplexity", "bits_per_byte", "accuracy"),
        # A perplexity depends on the tokenizer; bits per byte do not.
        tabled=("perplexity", "bits_per_byte"),
        decide="jaxdistill.evaluation.lm_scores:likeliest_tokens",
        agreement="jaxdistill.evaluation.lm_scores:same_tokens",
        checks=(
            "jaxdistill.doctor.checks_language:documents",
            "jaxdistill.doctor.checks_language:chats",
            "jaxdistill.doctor.checks_language:ends",
            "jaxdistill.doctor.checks_language:losses",
            "jaxdistill.doctor.checks_language:teacher_skill",
        ),
        head="lm",
        writes=True,
        documents=True,
        score_step="jaxdistill.evaluation.lm_scores:make_score_step",
    ),
)
