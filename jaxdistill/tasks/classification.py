"""One class for each example."""

from __future__ import annotations

from jaxdistill.tasks.task import CHECKS, Metric, Task

TASKS = (
    Task(
        name="classification",
        summary="One class for each text, image or vector",
        outputs="classes",
        loss="cross_entropy",
        soft={"loss": "forward_kl", "temperature": 2.0},
        metrics=(
            Metric(
                "accuracy",
                "jaxdistill.evaluation.metrics:accuracy",
                kind="share",
                hits="jaxdistill.evaluation.metrics:right_classes",
            ),
            Metric("f1", "jaxdistill.evaluation.metrics:f1_of_classes", kind="share"),
            Metric("matthews", "jaxdistill.evaluation.metrics:matthews", kind="correlation"),
        ),
        measured=("accuracy",),
        decide="jaxdistill.evaluation.metrics:classes",
        agreement="jaxdistill.evaluation.metrics:equal_classes",
        find_labels="jaxdistill.data.label_columns:class_column",
        label_space="jaxdistill.data.labels:class_space",
        encode_labels="jaxdistill.data.label_encoding:encode_classes",
        label_fault="jaxdistill.doctor.checks_labels:class_fault",
        blind="jaxdistill.doctor.blind:common_classes",
        association="jaxdistill.doctor.blind:class_association",
        explain="jaxdistill.doctor.label_orders:better_order",
        figures="jaxdistill.evaluation.figures:class_figures",
        checks=(
            *CHECKS,
            "jaxdistill.doctor.checks_labels:label_order",
            "jaxdistill.doctor.checks_labels:classes_taught",
            "jaxdistill.doctor.checks_classes:class_kind",
            "jaxdistill.doctor.checks_classes:spelling",
        ),
        problem_type="single_label_classification",
    ),
)
