"""Any number of labels for each example."""

from __future__ import annotations

from jaxdistill.tasks.task import CHECKS, Metric, Task

TASKS = (
    Task(
        name="multilabel",
        summary="Any number of labels for each text, image or vector",
        outputs="decisions",
        loss="multilabel",
        soft={"loss": "bernoulli_kl", "temperature": 2.0},
        metrics=(
            Metric(
                "exact_match",
                "jaxdistill.evaluation.metrics:exact_match",
                kind="share",
                hits="jaxdistill.evaluation.metrics:right_sets",
            ),
            Metric("f1", "jaxdistill.evaluation.metrics:f1_of_labels", kind="share"),
        ),
        measured=("exact_match", "f1"),
        decide="jaxdistill.evaluation.metrics:decisions",
        agreement="jaxdistill.evaluation.metrics:equal_decisions",
        find_labels="jaxdistill.data.label_columns:set_columns",
        label_space="jaxdistill.data.labels:set_space",
        encode_labels="jaxdistill.data.label_encoding:encode_sets",
        label_fault="jaxdistill.doctor.checks_labels:decision_fault",
        blind="jaxdistill.doctor.blind:common_sets",
        association="jaxdistill.doctor.blind:decision_association",
        figures="jaxdistill.evaluation.figures:set_figures",
        checks=(
            *CHECKS,
            "jaxdistill.doctor.checks_labels:label_order",
            "jaxdistill.doctor.checks_classes:set_kind",
            "jaxdistill.doctor.checks_classes:spelling",
        ),
        problem_type="multi_label_classification",
    ),
)
