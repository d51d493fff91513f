"""Fused losses over 4 devices equal the dense ones, and no device gathers what it should not."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.collectives import collectives, mesh_of
from support.fused_cases import assert_close, case, mix_of, run_float64

from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.losses import Projection, fused_loss, fused_loss_on_mesh

MODES = {"normal": {}, "low memory": {"low_memory": True}}


def on_mesh(mesh, inputs, **settings):
    """Compile with heads laid out as in training; return what `run` returns, and the program."""

    def put(leaf, *spec):
        spec = tuple(axis if axis in mesh.shape else None for axis in spec)
        return jax.device_put(leaf, NamedSharding(mesh, P(*spec)))

    def laid_out(side):
        spec = ("tensor", "fsdp") if side.transposed else ("fsdp", "tensor")
        return put(side.hidden, "fsdp"), put(side.weights, *spec), put(side.bias, "tensor")

    statics = [
        {k: v for k, v in vars(side).items() if k in ("scale", "softcap", "transposed")}
        for side in (inputs["student"], inputs["teacher"])
    ]

    def mixed(student, teacher, labels, where, temperature):
        found = fused_loss_on_mesh(
            mesh,
            Projection(*student, **statics[0]),
            Projection(*teacher, **statics[1]),
            mix_of("all", temperature),
            labels=labels,
            where=where,
            chunk=4,
            **settings,
        )
        return found.mix, found.terms

    arguments = (
        laid_out(inputs["student"]),
        laid_out(inputs["teacher"]),
        inputs["labels"],
        inputs["where"],
        np.float32(2.0),
    )
    program = jax.jit(jax.value_and_grad(mixed, has_aux=True)).lower(*arguments).compile()
    (mix, terms), gradients = program(*arguments)
    return (mix, terms, gradients), program.as_text()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mode", MODES)
def test_vocabulary_over_four_devices(mode):
    inputs = case(tokens=14, columns=(52, 52), softcap=6.0, transposed=(True, False))
    expected = run_float64("all", inputs, 2.0, vocabulary=50)
    found, program = on_mesh(mesh_of(tensor=4), inputs, vocabulary=50, **MODES[mode])
    assert_close(found, expected, 1e-5)
    seen = collectives(program)
    assert seen
    for computation, operation, shapes in seen:
        assert operation == "all-reduce", (computation, operation, shapes)
        # Sums of a chunk of 4 tokens, or the gradient to the hidden states, once.
        assert all(shape in ((4, 1), (14, 8)) for shape in shapes), (computation, shapes)
    assert sum(shape == (14, 8) for *_, shapes in seen for shape in shapes) == 1


@pytest.mark.slow
def test_a_head_sharded_over_fsdp_is_gathered_once():
    inputs = case(tokens=16, columns=(50, 54))
    expected = run_float64("all", inputs, 2.0, vocabulary=49)
    # 54 columns are padded to 56 on 2 x 2 devices.
    found, program = on_mesh(mesh_of(fsdp=2, tensor=2), inputs, vocabulary=49)
    assert_close(found, expected, 1e-5)
    seen = collectives(program)
    loops = set(re.findall(r"body=(%[\w.\-]+)", program))
    assert loops
    gathers = [place for place, kind, shapes in seen if kind == "all-gather"]
    assert gathers
    assert not loops & set(gathers)
    inside = [shapes for place, _, shapes in seen if place in loops]
    assert inside
    assert all(shape == (4, 1) for shapes in inside for shape in shapes)


@pytest.mark.slow
def test_the_gradient_of_a_head_is_scattered_before_copies_are_summed():
    inputs = case(tokens=16)
    _, program = on_mesh(mesh_of(data=2, fsdp=4), inputs)
    width, classes = inputs["student"].weights.shape
    sums = [shape for _, kind, shapes in collectives(program) if kind == "all-reduce"
            for shape in shapes]  # fmt: skip
    assert (width // 4, classes) in sums
    assert (width, classes) not in sums


@pytest.mark.slow
def test_tokens_over_devices_without_a_sharded_vocabulary():
    inputs = case(tokens=16, transposed=(True, True))
    expected = run_float64("all", inputs, 2.0)
    found, _ = on_mesh(mesh_of(data=2, fsdp=2), inputs)
    assert_close(found, expected, 1e-5)


def test_wrong_arguments():
    inputs = case(tokens=14)
    terms = mix_of("all", 2.0)
    labels = inputs["labels"]
    with pytest.raises(ModelError, match=r"student.hidden: got shape \(14, 8\).*4 devices"):
        fused_loss_on_mesh(
            mesh_of(data=4), inputs["student"], inputs["teacher"], terms, labels=labels
        )
    with pytest.raises(ConfigError, match="vocabulary_axis: got 'data'"):
        fused_loss_on_mesh(mesh_of(data=4), inputs["student"], None, terms, vocabulary_axis="data")

    def unchecked(hidden, weights):
        side = Projection(hidden, weights)
        return fused_loss(side, side, mix_of("forward_kl", 1.0), axis_name="tensor").mix

    specs = (P(), P(None, "tensor"))
    wrapped = jax.shard_map(
        unchecked, mesh=mesh_of(tensor=2), in_specs=specs, out_specs=P(), check_vma=False
    )
    with pytest.raises(ConfigError, match="axis_name: got 'tensor' where varying axes"):
        wrapped(inputs["student"].hidden, inputs["student"].weights)
