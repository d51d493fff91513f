"""A model that teaches speaks as it does by itself, whatever it keeps of its parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.models.outputs import Outputs
from jaxdistill.models.registry import Model, build_model
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import parameter_shardings
from jaxdistill.teachers.live import live, with_state

LLAMA = {
    "family": "llama",
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
IDS = {"input_ids": np.arange(12, dtype=np.int32).reshape(2, 6)}
BATCH = {"features": np.arange(6.0, dtype=np.float32).reshape(3, 2)}


def centred(params, batch, *, rng=None, train=False, taps=(), model_state=None) -> Outputs:
    """Multiply what the batch holds, less the mean that the model remembers."""
    return Outputs(logits=(batch["features"] - model_state["mean"][None]) @ params["kernel"])


def remembering() -> Model:
    return Model(
        centred,
        {"kernel": jnp.arange(8.0).reshape(2, 4)},
        model_state={"mean": jnp.array([1.0, -2.0])},
        axes={"kernel": ("embed", "mlp")},
    )


def test_a_state_of_its_own_goes_with_the_parameters_as_they_are_given():
    expected = (BATCH["features"] - np.array([[1, -2]])) @ np.arange(8.0).reshape(2, 4)
    teacher = live(remembering(), storage="dtype", on_host=False)
    np.testing.assert_allclose(teacher.apply(teacher.params, BATCH).logits, expected)
    moved = jax.tree.map(lambda leaf: leaf + 1, teacher.params)
    others = (BATCH["features"] - np.array([[2, -1]])) @ (np.arange(8.0).reshape(2, 4) + 1)
    np.testing.assert_allclose(teacher.apply(moved, BATCH).logits, others)


def test_a_state_lies_whole_beside_parameters_that_are_shared():
    teacher = live(remembering(), storage="dtype", on_host=False)
    mesh = make_mesh(1, tensor=4, devices=jax.devices()[:4])
    of = parameter_shardings(teacher.params, teacher.axes, mesh)
    assert of["params"]["kernel"].shard_shape((2, 4)) == (2, 1)
    assert of["model_state"]["mean"].is_fully_replicated


def test_a_model_without_a_state_is_taken_as_it_is():
    model = build_model(LLAMA, head="lm")
    apply, params = with_state(model)
    assert apply is model.apply
    assert params is model.params


def test_kernels_are_kept_as_they_are_asked_for():
    model = build_model(LLAMA, head="lm")
    kinds = {}
    for storage in ("dtype", "int8"):
        teacher = live(model, storage=storage, on_host=False)
        kinds[storage] = {str(leaf.dtype) for leaf in jax.tree.leaves(teacher.params)}
    assert kinds == {"dtype": {"float32"}, "int8": {"float32", "int8"}}


def test_layers_that_lie_on_the_host_are_fetched():
    model = build_model(LLAMA, head="lm")
    expected = jax.jit(model.apply)(model.params, IDS).logits
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    teacher = live(model, storage="dtype", on_host=True)
    found = jax.jit(teacher.apply)(jax.device_put(teacher.params, host), IDS).logits
    np.testing.assert_array_equal(found, expected)
    near = live(model, storage="dtype", on_host=False)
    assert near.apply is model.apply


def test_what_is_known_of_a_teacher_is_handed_on():
    model = build_model(LLAMA, head="lm")
    teacher = live(model, storage="dtype", on_host=False)
    assert (teacher.config, teacher.codec) == (model.config, None)
    assert dataclasses.asdict(teacher.config)["num_hidden_layers"] == 2
    assert teacher.axes is model.axes
