"""How a step is compiled: what it may overwrite, and where its results lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdistill.parallel import compilation
from jaxdistill.parallel.mesh import make_mesh


def step(state, frozen, batch, *, axis_name=None):
    """Give back one array of the form of each argument, for which its memory could be taken."""
    del axis_name
    return state + 1, {"frozen": 2 * frozen, "batch": 3 * batch["x"]}


@pytest.mark.parametrize("where", ["anywhere", "on a mesh", "under pmap"])
def test_the_state_may_be_overwritten_and_nothing_else(where):
    devices = jax.devices()[:1]
    state, frozen, batch = jnp.ones(3), jnp.ones(5), {"x": jnp.ones(7)}
    if where == "under pmap":
        compiled = compilation.pmap_step(step, devices)
        state, frozen = (compilation.replicate(tree, devices) for tree in (state, frozen))
    else:
        mesh = make_mesh(1, devices=devices) if where == "on a mesh" else None
        compiled = compilation.compile_step(step, mesh)
    after, told = compiled(state, frozen, batch)
    assert state.is_deleted()
    assert not frozen.is_deleted()
    assert not batch["x"].is_deleted()
    np.testing.assert_array_equal(np.ravel(after), 2 * np.ones(3))
    np.testing.assert_array_equal(np.ravel(told["frozen"]), 2 * np.ones(5))


def test_state_and_frozen_part_lie_where_they_are_told_and_whole_where_not():
    mesh = make_mesh(4, devices=jax.devices()[:4])
    over = NamedSharding(mesh, PartitionSpec("data"))
    batch = compilation.place_batch({"x": np.ones(8, np.float32)}, mesh)
    compiled = compilation.compile_step(step, mesh, state_sharding=over, frozen_sharding=over)
    program = compiled.lower(jnp.ones(4), jnp.ones(8), batch).compile()
    assert program.input_shardings[0][:2] == (over, over)
    assert program.output_shardings[0] == over
    assert program.output_shardings[1]["frozen"].is_fully_replicated
    plain = compilation.compile_step(step, mesh)
    program = plain.lower(jnp.ones(4), jnp.ones(8), batch).compile()
    assert all(one.is_fully_replicated for one in program.input_shardings[0][:2])
