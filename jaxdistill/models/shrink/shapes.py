"""A student made of its teacher, as shapes: no weights need to exist."""

from __future__ import annotations

from jaxdistill.config.schema import StudentConfig
from jaxdistill.models.abstract import without_weights
from jaxdistill.models.assembly import shapes_only
from jaxdistill.models.registry import Model, family_named
from jaxdistill.models.shrink.layers import student_from_teacher
from jaxdistill.models.shrink.width import narrowed_config


def student_of_teacher(student: StudentConfig, teacher: Model) -> Model:
    """Return the part of a teacher that a student starts as, narrower, of fewer layers, or both.

    Args:
      student: sizes and layers of the student.
      teacher: the teacher; parameters may be shapes.
    """
    if student.sizes:
        assert teacher.family is not None  # of a spec or a folder
        assert teacher.options is not None
        narrow = narrowed_config(teacher, **student.sizes)
        teacher = shapes_only(family_named(teacher.family), narrow, teacher.options)
    if student.layers is None:
        return teacher
    layers = student.layers if isinstance(student.layers, int) else list(student.layers)
    return without_weights(lambda whole: student_from_teacher(whole, layers), teacher)
