"""A number for each example."""

from __future__ import annotations

from jaxdistill.tasks.task import Metric, Task

TASKS = (
    Task(
        name="regression",
        summary="A number for each text, image or vector",
        outputs="values",
        loss="regression",
        soft={"loss": "mse_logits"},
        metrics=(
            Metric("spearman", "jaxdistill.evaluation.metrics:spearman", kind="correlation"),
            Metric("pearson", "jaxdistill.evaluation.metrics:pearson", kind="correlation"),
            Metric("mse", "jaxdistill.evaluation.metrics:mse", higher_is_better=False),
        ),
        measured=("spearman", "pearson"),
        decide="jaxdistill.evaluation.metrics:values",
        agreement="jaxdistill.evaluation.metrics:correlated_values",
        agreement_is_share=False,
        find_labels="jaxdistill.data.label_columns:score_column",
        label_space="jaxdistill.data.labels:value_space",
        encode_labels="jaxdistill.data.label_encoding:encode_values",
        label_fault="jaxdistill.doctor.checks_labels:value_fault",
        blind="jaxdistill.doctor.blind:mean_value",
        association="jaxdistill.doctor.blind:value_association",
        figures="jaxdistill.evaluation.figures:value_figures",
        problem_type="regression",
    ),
)
