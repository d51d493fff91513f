"""Losses in chunks over devices equal those of one, and nothing large crosses in the loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.chunked_cases import CLASSES, WIDTH, case, stored, terms_of
from support.collectives import collectives, mesh_of

from jaxdistill.errors import ModelError
from jaxdistill.losses.chunked.api import chunked_loss
from jaxdistill.losses.chunked.mesh import chunked_loss_on_mesh
from jaxdistill.losses.head import Projection
from jaxdistill.teachers.cache import codecs

ROWS, LENGTH = 4, 8


@pytest.mark.mostly_slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [{"data": 4}, {"fsdp": 4}, {"data": 2, "fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"sequence": 3},
     {"data": 2, "sequence": 2, "tensor": 2}],
    ids=lambda sizes: "x".join(f"{axis}{size}" for axis, size in sizes.items()),
)  # fmt: skip
def test_devices_give_what_one_does(sizes, transposed):
    mesh = mesh_of(**sizes)
    student, teacher, labels, where = case(rows=ROWS, length=LENGTH, transposed=transposed)
    codec = codecs.TopK(5)
    arguments = {"parts": stored(codec, teacher, ROWS), "labels": labels}
    terms = terms_of(codec, "topk_forward_kl")

    def loss(student, arguments, where, over=None):
        options = {"vocabulary": 30, "columns": 1}
        if over is None:
            found = chunked_loss(student, terms, arguments, where, **options)
        else:
            found = chunked_loss_on_mesh(over, student, terms, arguments, where, **options)
        return found.mix, found.terms

    def put(leaf, *spec):
        spec = tuple(axis if axis in sizes else None for axis in spec)
        return jax.device_put(leaf, NamedSharding(mesh, P(*spec)))

    expected = jax.jit(jax.value_and_grad(loss, has_aux=True))(student, arguments, where)
    rows = tuple(axis for axis in ("data", "fsdp") if axis in sizes)
    arguments, where = jax.tree.map(
        lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P(rows))), (arguments, where)
    )
    head = ("tensor", "fsdp") if transposed else ("fsdp", "tensor")
    student = Projection(
        jax.device_put(student.hidden, NamedSharding(mesh, P(rows))),
        put(student.weights, *head),
        put(student.bias, "tensor"),
        transposed=transposed,
    )
    step = jax.jit(lambda *given: jax.value_and_grad(loss, has_aux=True)(*given, over=mesh))
    program = step.lower(student, arguments, where).compile()
    found = program(student, arguments, where)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        found,
        expected,
    )
    text = program.as_text()
    loops = set(re.findall(r"body=(%[\w.\-]+)", text))
    assert loops
    seen = collectives(text)
    assert not [place for place, *_ in seen if place in loops]
    # Of the head's size: gathered once, its gradient summed once; of logits: nothing.
    sizes = [max(np.prod(shape) for shape in shapes) for *_, shapes in seen]
    assert sum(size >= WIDTH * (CLASSES - 10) for size in sizes) <= 2, seen


def test_rows_that_do_not_divide_are_refused():
    student, _, labels, where = case(rows=3, length=LENGTH)
    terms = {"hard": (lambda logits, own: jnp.sum(logits, -1), 1.0)}
    with pytest.raises(ModelError, match=r"student.hidden: got shape \(3, 8, 8\).*2 devices"):
        chunked_loss_on_mesh(mesh_of(data=2), student, terms, labels, where)
