"""Operations and bytes of attention's kernels against a walk over the blocks that they compute."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jaxdistill.models.layers import flash
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.planning import topology
from jaxdistill.planning.compiled import hlo, work
from jaxdistill.planning.topology import missing_libtpu

HEADS, KEY_HEADS, LENGTH, WIDTH, SIDE = 4, 2, 2048, 64, 512

# As a compiler for TPUs prints them, shortened; a kernel's attributes go on over lines.
TEXT = """HloModule jit_step, is_scheduled=true

ENTRY %main (a: s8[1,4,4], q: bf16[4,2048,64], k: bf16[2,2048,64]) -> bf16[4,2048,64] {
  %a = s8[1,4,4]{2,1,0:T(4,128)(4,1)} parameter(0)
  %q = bf16[4,2048,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[2,2048,64]{2,1,0:T(8,128)(2,1)} parameter(2)
  %v = bf16[2,2048,64]{2,1,0:T(8,128)(2,1)} parameter(3)
  %o = bf16[4,2048,64]{2,1,0:T(8,128)(2,1)} parameter(4)
  %l = f32[4,1,2048]{2,1,0:T(1,128)} parameter(5)
  %NAME = (f32[512,128]{1,0:T(8,128)S(1)}, RESULTS) custom-call(%a, %a, OPERANDS), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha = 1"}
  ROOT %found = bf16[4,2048,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%NAME), index=1, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha"}
}
"""  # noqa: E501
OF_QUERIES, OF_KEYS = "bf16[4,2048,64]{2,1,0}", "bf16[2,2048,64]{2,1,0}"
KERNELS = {
    "splash_mha_fwd_segmented_no_residuals.1": ("%q, %k, %v", [OF_QUERIES]),
    "splash_mha_dq_segmented_no_residuals.1": ("%q, %k, %v, %l, %o, %l", [OF_QUERIES]),
    "splash_mha_dkv_segmented_no_residuals.1": ("%q, %k, %v, %l, %o, %l", [OF_KEYS, OF_KEYS]),
}


def walked(name: str, grid: int) -> tuple[int, int]:
    """Count operations and bytes block by block."""
    query, key, line = SIDE * WIDTH * 2, SIDE * WIDTH * 2, SIDE * 4
    products = {"fwd": 2, "dq": 3, "dkv": 4}[name.split("_")[2]]
    blocks = LENGTH // SIDE
    flops = moved = 0
    for _ in range(HEADS):
        for i in range(blocks):
            seen = [j for j in range(blocks) if j <= i][-grid:]
            flops += len(seen) * products * 2 * SIDE * SIDE * WIDTH
            if "dkv" not in name:
                moved += query + len(seen) * 2 * key  # queries stay, keys and values pass by
                moved += (query + 2 * line) * ("dq" in name)
            else:
                moved += 2 * key + (blocks - i) * (2 * query + 2 * line)
    results = 2 * KEY_HEADS if "dkv" in name else HEADS
    return flops, moved + results * LENGTH * WIDTH * 2


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_counts_the_blocks_that_a_token_sees(name):
    operands, results = KERNELS[name]
    text = TEXT.replace("NAME", name).replace("OPERANDS", operands)
    program = hlo.parse(text.replace("RESULTS", ", ".join(results)))
    assert program.computations["main"].root.name == "found"
    found = work.measure(program)
    assert (found.flops, found.bytes) == walked(name, LENGTH // SIDE)


def test_a_window_shrinks_the_grid():
    """Two blocks of keys for each of queries: the first has one, all others two."""
    name = "splash_mha_fwd_segmented_no_residuals.1"
    text = TEXT.replace("NAME", name).replace("OPERANDS", "%q, %k, %v")
    text = text.replace("RESULTS", OF_QUERIES).replace("s8[1,4,4]", "s8[1,4,2]")
    flops, _ = walked(name, 2)
    assert flops <= work.measure(hlo.parse(text)).flops < 1.2 * flops


needs_libtpu = pytest.mark.skipif(missing_libtpu() is not None, reason=str(missing_libtpu()))


@needs_libtpu
def test_the_kernels_of_a_program_for_tpus_are_found():
    """Forward and backward pass over a row, compiled for a chip that is not there."""
    topology.settle("v5e:2x2")
    mesh = mesh_of({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}, [
        topology.open_topology("v5e:2x2").devices[0]
    ])  # fmt: skip
    where = SingleDeviceSharding(mesh.devices.flat[0])

    def row(heads: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, LENGTH, heads, WIDTH), jnp.bfloat16, sharding=where)

    def loss(query, key, value, segments):
        mixed = flash.attend_in_blocks(query, key, value, segments, scale=0.125)
        return mixed.astype(jnp.float32).sum()

    ids = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32, sharding=where)
    with sharding.on_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(
            row(HEADS), row(KEY_HEADS), row(KEY_HEADS), ids
        )
    program = hlo.parse(lowered.compile().as_text())
    assert work.measure(program).flops == sum(walked(name, LENGTH)[0] for name in KERNELS)
    squares = [
        array
        for computation in program.computations.values()
        for line in computation.values()
        for array in line.arrays
        if array.size >= LENGTH * LENGTH * HEADS
    ]
    assert not squares
