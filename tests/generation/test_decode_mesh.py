"""Generation over several devices against one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity
from models.writing import prompts, same

from jaxdistill.errors import ConfigError
from jaxdistill.generation import decode as module
from jaxdistill.generation.decode import generate
from jaxdistill.generation.writing import sampling_of
from jaxdistill.models.registry import build_model
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.planning.compiled import hlo, loops


@pytest.fixture(scope="module")
def model():
    return build_model(
        parity.spec("gpt2", n_positions=128, initializer_range=0.3, tie_word_embeddings=False)
    )


def laid_out(model, **sizes):
    mesh = make_mesh(**sizes)
    parts = sharding.parameter_shardings(model.params, model.axes, mesh)
    return mesh, dataclasses.replace(model, params=sharding.place(model.params, parts))


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "sizes",
    [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 4}, {"data": 2, "tensor": 4}],
    ids=lambda sizes: "x".join(f"{axis}{size}" for axis, size in sizes.items()),
)
def test_rows_over_devices_are_the_same_rows(model, sizes):
    mesh, placed = laid_out(model, **sizes)
    ids, mask = prompts(lengths=(6, 3, 5, 1))
    options = {"max_new_tokens": 10, "rng": jax.random.key(1), "multiple": 8}
    got = generate(placed, ids, mask, mesh=mesh, **options)
    same(got, generate(model, ids, mask, **options))
    assert len(got.tokens.sharding.device_set) == mesh.size


def test_rows_that_do_not_divide_are_refused(model):
    mesh, placed = laid_out(model, data=2, fsdp=2)
    with pytest.raises(ConfigError, match=r"generate.batch_size: 3 rows of 'prompts'.*e\.g\. 4"):
        generate(placed, *prompts(), max_new_tokens=10, temperature=0, mesh=mesh)


@pytest.mark.slow
def test_no_parameter_crosses_devices_for_a_token():
    """They are gathered for the prompts; then sums of a few rows cross."""
    tied = {"tie_word_embeddings": True, "vocab_size": 256}
    model = build_model(parity.spec("qwen3", hidden_size=64, head_dim=32, **tied))
    mesh, placed = laid_out(model, data=2, fsdp=2, tensor=2)
    shape, options = module.decoder_of(model)
    over = sharding.batch_sharding(mesh)
    program = module.write.lower(
        placed.params,
        jax.ShapeDtypeStruct((4, 16), jnp.int32, sharding=over),
        jax.ShapeDtypeStruct((4,), jnp.int32, sharding=over),
        np.int32(8),
        sampling_of(None, temperature=0, top_p=None, eos_id=None, pad_id=0),
        shape=shape,
        options=options,
        room=8,
        top_k=None,
        mesh=mesh,
    ).compile()
    tokens = 1000
    sizes = {True: [0.0], False: [0.0]}
    products = [0.0]
    for visit in loops.walk(hlo.parse(program.as_text()), trips=lambda loop: tokens):
        line, within = visit.line, visit.times >= tokens
        if line.opcode.startswith("all-gather"):
            sizes[within].append(line.arrays[-1].bytes)
        if within and line.opcode == "dot":
            products += [visit.inside[name].arrays[0].bytes for name in line.operands]
    kernel = 64 * 32 * 2 * 4  # of keys, the smallest
    assert max(sizes[True]) < kernel <= max(sizes[False])
    # The largest is a device's part of the head, which is whole for the prompts.
    assert max(products) == 64 * 256 * 4 / 4
