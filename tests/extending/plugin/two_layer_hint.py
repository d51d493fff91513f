"""A method that is no part of jaxdistill: hints through a trained map of two layers."""

import jaxdistill as jd


class HintOptions(jd.Section):
    """Options of `two_layer_hint`."""

    student_layer: int = 0
    teacher_layer: int = 0
    width: int = 32
    """Features between the two layers of the map."""


def taps(student_layer, teacher_layer, width):
    return [f"layers.{student_layer}.hidden"], [f"layers.{teacher_layer}.hidden"]


def maps(student, teacher, key, student_layer, teacher_layer, width):
    import jax

    ours, theirs = student.config.hidden_sizes, teacher.config.hidden_sizes
    sizes = [(ours[student_layer], width), (width, theirs[teacher_layer])]
    keys = jax.random.split(key)
    draw = jax.random.normal
    return [draw(k, size) * size[0] ** -0.5 for k, size in zip(keys, sizes, strict=True)]


def hint(student, teacher, batch, *, maps, step, student_layer, teacher_layer, width):
    """Squared distance of the teacher's pooled features from a trained map of the student's.

    FitNets (arXiv 1412.6550), with a map of two layers.
    """
    import jax.numpy as jnp

    ours = student.features[f"layers.{student_layer}.hidden"]  # [B, D]
    theirs = teacher.features[f"layers.{teacher_layer}.hidden"].mean((1, 2))  # [B, C]
    mapped = jnp.maximum(ours @ maps[0], 0) @ maps[1]
    return jd.Mean.of(((mapped - theirs) ** 2).mean(-1), batch["weight"])


def register():
    jd.register_method(
        jd.Method("two_layer_hint", "outputs", hint, HintOptions, taps=taps, maps=maps)
    )
