"""A task that is no part of jaxdistill: ordered grades, each known by the thresholds it passes."""

import numpy as np

import jaxdistill as jd


def space(table, columns, *, labels, **_):
    """Find the thresholds: every grade but the highest can be passed."""
    if labels is None:
        grades = sorted({float(grade) for grade in table.columns[columns[0]]})
        labels = [f"above {grade:g}" for grade in grades[:-1]]
    return jd.LabelSpace(len(labels), tuple(labels), columns=tuple(columns))


def encode(table, columns, space):
    """Return 1 for each threshold that a grade passes, float32 [N, C]."""
    thresholds = [float(name.removeprefix("above ")) for name in space.names]
    return (np.asarray(table.columns[columns[0]], float)[:, None] > thresholds).astype(np.float32)


def grade(logits):
    return (np.asarray(logits) > 0).sum(-1)


def grade_error(logits, labels, *, positive=None):
    return np.abs(grade(logits) - labels.sum(-1)).mean()


def same_grade(student_logits, teacher_logits):
    return (grade(student_logits) == grade(teacher_logits)).mean()


def every_grade(labels, outputs):
    return np.where(np.tri(outputs + 1, outputs, -1) > 0, 1.0, -1.0)


def correlation(logits, labels):
    given = grade(logits)
    return float(np.corrcoef(given, labels.sum(-1))[0, 1]) if np.ptp(given) else 0.0


def register():
    jd.register_task(
        jd.Task(
            name="ordered_grades",
            summary="A grade on a scale, by the thresholds that it passes (arXiv 1901.07884)",
            outputs="decisions",
            loss="multilabel",
            soft={"loss": "bernoulli_kl", "temperature": 2.0},
            metrics=(jd.Metric("grade_error", grade_error, higher_is_better=False, decimals=3),),
            decide=grade,
            agreement=same_grade,
            find_labels="jaxdistill.data.label_columns:score_column",
            label_space=space,
            encode_labels=encode,
            blind=every_grade,
            association=correlation,
        )
    )
