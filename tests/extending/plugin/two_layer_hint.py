"""A method that is no part of jaxdistill: centered hints through a trained map of two layers."""

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
    draws = zip(jax.random.split(key), sizes, strict=True)
    return [jax.random.normal(k, size) * size[0] ** -0.5 for k, size in draws]


def state(student, teacher, teacher_layer, **_):
    import jax.numpy as jnp

    return {"mean": jnp.zeros(teacher.config.hidden_sizes[teacher_layer]), "steps": jnp.int32(0)}


def hint(student, teacher, batch, *, maps, state, step, student_layer, teacher_layer, width):
    """Squared distance of the teacher's pooled features from a trained map of the student's.

    FitNets (arXiv 1412.6550), with a map of two layers and a running mean taken off the teacher.
    """
    import jax.numpy as jnp

    theirs = teacher.features[f"layers.{teacher_layer}.hidden"].mean((1, 2))  # [B, C]
    mean = 0.9 * state["mean"] + 0.1 * theirs.mean(0)
    mapped = jnp.maximum(student.features[f"layers.{student_layer}.hidden"] @ maps[0], 0) @ maps[1]
    loss = ((mapped - theirs + mean) ** 2).mean(-1)
    return jd.Mean.of(loss, batch["weight"]), {"mean": mean, "steps": state["steps"] + 1}


def register():
    parts = {"taps": taps, "maps": maps, "state": state}
    jd.register_method(jd.Method("two_layer_hint", "outputs", hint, HintOptions, **parts))
