"""Counts read from compiled programs against programs whose counts are known."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.planning.chips import CPU, TPUS
from jaxdistill.planning.compiled import hlo, loops, work
from jaxdistill.planning.compiled.collectives import (
    axes_of,
    collectives,
    first_group,
    network_seconds,
)


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def counted(function, *arguments):
    return work.measure(hlo.parse(compiled(function, *arguments).as_text()))


def test_a_product_counts_two_operations_for_each_multiply():
    assert counted(jnp.matmul, shape(8, 16), shape(16, 32)).flops == 2 * 8 * 16 * 32


def stacked(x, kernels):
    def layer(x, kernel):
        return jnp.tanh(x @ kernel), None

    return lax.scan(layer, x, kernels)[0]


def test_a_scanned_product_counts_once_for_each_layer():
    found = counted(stacked, shape(8, 16), shape(5, 16, 16))
    assert found.flops == 5 * 2 * 8 * 16 * 16
    assert found.bounded


def test_a_scan_in_a_scan_counts_by_both():
    def outer(x, kernels):
        return lax.scan(lambda x, _: (stacked(x, kernels), None), x, None, length=3)[0]

    assert counted(outer, shape(8, 16), shape(5, 16, 16)).flops == 15 * 2 * 8 * 16 * 16


def test_branches_count_as_if_taken_equally_often():
    def either(which, x):
        branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
        return lax.switch(which, branches, x)

    found = counted(either, shape(dtype=jnp.int32), shape(16, 16))
    assert found.flops == pytest.approx((1 + 2) / 3 * 2 * 16**3)


def test_gradients_of_recomputed_layers_count_what_is_run():
    def loss(kernels, x):
        def layer(x, kernel):
            return jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ kernel) @ kernel))(x), None

        return lax.scan(layer, x, kernels)[0].sum()

    found = counted(jax.grad(loss), shape(5, 16, 16), shape(8, 16))
    # Per layer two products forward, both again, and two gradients of each; the last of the second
    # pass is not needed.
    once = 2 * 8 * 16 * 16
    assert 5 * 7 * once <= found.flops <= 5 * 8 * once


def test_a_loop_that_its_data_end_counts_once_and_says_so():
    def halve(x):
        return lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)

    program = hlo.parse(compiled(halve, shape(8, 8)).as_text())
    found = work.measure(program)
    assert (found.flops, found.bounded) == (2 * 8**3, False)
    told = work.measure(program, list(loops.walk(program, trips=lambda loop: 7)))
    assert told.flops == 7 * 2 * 8**3


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 2), "padding": ((2, 1), (0, 3))},
        {"window_strides": (1, 1), "padding": ((2, 2), (1, 4)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 1)},
    ],
)
def test_convolutions_count_as_the_compiler_counts_them(options):
    program = compiled(
        lambda x, k: lax.conv_general_dilated(
            x, k, **options, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        shape(2, 12, 10, 4),
        shape(3, 5, 4, 6),
    )
    found = work.measure(hlo.parse(program.as_text()))
    assert found.flops == pytest.approx(program.cost_analysis()["flops"], rel=1e-6)


def test_bytes_of_stacked_kernels_are_read_once_in_all():
    found = counted(stacked, shape(8, 64), shape(50, 64, 64))
    kernels = 50 * 64 * 64 * 4
    # Each layer reads its own kernel (and may copy it), not all 50 of them.
    assert kernels <= found.bytes < 5 * kernels


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, fsdp=4)


def messages(function, mesh, spec, *arguments, out=None):
    run = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out or spec, check_vma=False)
    program = hlo.parse(compiled(run, *arguments).as_text())
    found = collectives(list(loops.walk(program)), mesh, CPU, (8,))
    return {(one.kind, one.axes): (one.bytes, one.count) for one in found}


@pytest.mark.parametrize(
    ("kind", "function", "share"),
    [
        ("all-gather", lambda x: lax.all_gather(x, "fsdp", tiled=True).sum(0, keepdims=True), 3),
        ("all-reduce", lambda x: lax.psum(x, "fsdp"), 2 * 3 / 4),
        ("all-to-all", lambda x: lax.all_to_all(x, "fsdp", 0, 1, tiled=True), 3 / 4),
        ("reduce-scatter", lambda x: lax.psum_scatter(x, "fsdp", tiled=True), 3 / 4),
        (
            "collective-permute",
            lambda x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
            1,
        ),
    ],
)
def test_messages_in_a_loop(mesh, kind, function, share):
    def body(x, _):
        return x + function(x * 2).sum(), None

    found = messages(
        lambda x: lax.scan(body, x, None, length=3)[0], mesh, P(("data", "fsdp")), shape(64, 16)
    )
    own = 64 // 8 * 16 * 4  # bytes of a device's part
    assert found[kind, "fsdp"] == (pytest.approx(3 * share * own), 3)


def test_messages_over_two_axes_are_named_by_both(mesh):
    found = messages(lambda x: lax.psum(x, ("data", "fsdp")), mesh, P("data"), shape(8, 16))
    assert ("all-reduce", "data+fsdp") in found


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", [0, 1]),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4]),
    ],
)
def test_groups_as_compilers_print_them(text, group):
    line = hlo.Instruction("x", "all-reduce", (), (), f", channel_id=1, {text}, more", "", False)
    assert first_group(line, "all-reduce", 8) == group


def test_axes_of_a_group(mesh):
    assert axes_of([0, 1, 2, 3], mesh) == "fsdp"
    assert axes_of([0, 4], mesh) == "data"


# As the compiler for TPUs writes them: a gather spread over two products, and a reduce-scatter.
TPU = """HloModule step

%spread_start (p.0: bf16[2,8]) -> bf16[8,8] {
  %p.0 = bf16[2,8]{1,0:T(8,128)(2,1)} parameter(0)
  %gather.1 = bf16[8,8]{1,0} all-gather(%p.0), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, frontend_attributes={chain_id="4"}
  ROOT %start = bf16[8,8]{1,0} custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%spread_done (p.1: bf16[2,8]) -> bf16[8,8] {
  %p.1 = bf16[2,8]{1,0} parameter(0)
  %gather.2 = bf16[8,8]{1,0} all-gather(%p.1), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, frontend_attributes={chain_id="4"}
  ROOT %done = bf16[8,8]{1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.2: f32[8,8]) -> f32[2,8] {
  %p.2 = f32[8,8]{1,0} parameter(0)
  %sum = f32[8,8]{1,0} all-reduce(%p.2), channel_id=8, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[2,8]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={2,8}
}

ENTRY %main (a: bf16[2,8], b: f32[8,8]) -> f32[2,8] {
  %a = bf16[2,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %f.0 = bf16[8,8]{1,0} fusion(%a), kind=kOutput, calls=%spread_start
  %f.1 = bf16[8,8]{1,0} fusion(%a), kind=kOutput, calls=%spread_done
  ROOT %f.2 = f32[2,8]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter
}
"""  # noqa: E501


def test_a_message_on_its_way_through_a_product_moves_no_memory():
    text = """HloModule step

%passing (p.0: bf16[2,800], p.1: bf16[8,800], p.2: f32[4,4]) -> (f32[4,4], bf16[2,800], bf16[8,800]) {
  %p.0 = bf16[2,800]{1,0} parameter(0)
  %p.1 = bf16[8,800]{1,0} parameter(1)
  %p.2 = f32[4,4]{1,0} parameter(2)
  %gather = bf16[8,800]{1,0} all-gather(%p.0), channel_id=7, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="4"}
  %twice = f32[4,4]{1,0} add(%p.2, %p.2)
  ROOT %all = (f32[4,4]{1,0}, bf16[2,800]{1,0}, bf16[8,800]{1,0}) tuple(%twice, %p.0, %gather)
}

ENTRY %main (a: bf16[2,800], b: bf16[8,800], c: f32[4,4]) -> (f32[4,4], bf16[2,800], bf16[8,800]) {
  %a = bf16[2,800]{1,0} parameter(0)
  %b = bf16[8,800]{1,0} parameter(1)
  %c = f32[4,4]{1,0} parameter(2)
  ROOT %f = (f32[4,4]{1,0}, bf16[2,800]{1,0}, bf16[8,800]{1,0}) fusion(%a, %b, %c), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%passing
}
"""  # noqa: E501
    assert work.measure(hlo.parse(text)).bytes == 2 * 4 * 4 * 4


def test_of_what_a_fusion_in_a_fusion_slices_the_slice_is_read():
    text = """HloModule step

%inner (p.0: f32[36,4,8], p.1: s32[]) -> f32[4,8] {
  %p.0 = f32[36,4,8]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,4,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,4,8}
  ROOT %flat = f32[4,8]{1,0} bitcast(%one)
}

%outer (p.2: f32[36,4,8], p.3: s32[], p.4: f32[2,4]) -> f32[2,8] {
  %p.2 = f32[36,4,8]{2,1,0} parameter(0)
  %p.3 = s32[] parameter(1)
  %p.4 = f32[2,4]{1,0} parameter(2)
  %f.0 = f32[4,8]{1,0} fusion(%p.2, %p.3), kind=kLoop, calls=%inner
  ROOT %dot = f32[2,8]{1,0} dot(%p.4, %f.0), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[36,4,8], b: s32[], c: f32[2,4]) -> f32[2,8] {
  %a = f32[36,4,8]{2,1,0} parameter(0)
  %b = s32[] parameter(1)
  %c = f32[2,4]{1,0} parameter(2)
  ROOT %f.1 = f32[2,8]{1,0} fusion(%a, %b, %c), kind=kOutput, calls=%outer
}
"""
    found = work.measure(hlo.parse(text))
    assert found.bytes == 4 * (4 * 8 + 2 * 4 + 2 * 8)
    assert found.flops == 2 * 2 * 4 * 8


def test_messages_of_a_program_for_tpus(mesh):
    program = hlo.parse(TPU)
    found = collectives(list(loops.walk(program)), mesh, CPU, (8,))
    assert {(one.kind, one.bytes, one.count) for one in found} == {
        ("all-gather", 3 * 2 * 8 * 2, 1),
        ("reduce-scatter", 8 * 8 * 4 * 3 / 4, 1),
    }
    assert program.computations["main"]["a"].arrays[0].on_chip


@pytest.mark.parametrize(("side", "links"), [(4, 1), (16, 2)])
def test_time_of_a_message_knows_rings_from_lines(side, links):
    # A v5e slice is a ring along a dimension of 16 chips only.
    places = np.array(
        [SimpleNamespace(coords=(i // side, i % side, 0)) for i in range(side**2)], object
    )

    mesh: Any = SimpleNamespace(
        devices=places.reshape(side, side), shape={"data": side, "fsdp": side}, size=side * side
    )
    group = ",".join(str(i) for i in range(side))
    text = TPU.replace("{{0,1,2,3},{4,5,6,7}}", f"{{{{{group}}}}}")
    chip = TPUS["v5e"]
    found = collectives(list(loops.walk(hlo.parse(text))), mesh, chip, (side, side))
    received = sum(one.bytes for one in found)
    assert network_seconds(found) == pytest.approx(received / (links * 50e9))
