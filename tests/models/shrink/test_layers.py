"""Students made of their teacher's layers."""

import jax
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.models.shrink.layers import evenly_spaced, student_from_teacher


@pytest.fixture(scope="module")
def teacher():
    spec = parity.spec("bert", num_hidden_layers=6, initializer_range=0.2)
    return build_model(spec, labels=["no", "yes"])


@pytest.mark.parametrize(
    ("count", "depth", "expected"),
    [(3, 6, [0, 2, 4]), (6, 12, [0, 2, 4, 6, 8, 10]), (1, 6, [0]), (4, 6, [0, 1, 3, 4])],
)
def test_evenly_spaced(count, depth, expected):
    assert evenly_spaced(count, depth) == expected


@pytest.mark.slow
def test_a_student_computes_the_teachers_first_layers(teacher):
    student = student_from_teacher(teacher, [0, 1])
    batch = parity.text_batch(0)
    got = parity.run(student, batch, ("layers.1.hidden",)).features["layers.1.hidden"]
    expected = parity.run(teacher, batch, ("layers.1.hidden",)).features["layers.1.hidden"]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("layers", [3, [4, 0, 2]])
def test_layers_embeddings_and_head_are_copied(teacher, layers):
    student = student_from_teacher(teacher, layers)
    chosen = [0, 2, 4] if layers == 3 else layers
    assert student.config.num_hidden_layers == 3
    assert student.labels == ("no", "yes")
    for name in ("embeddings", "pooler", "head"):
        jax.tree.map(np.testing.assert_array_equal, student.params[name], teacher.params[name])
    kernels = student.params["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(
        kernels, teacher.params["layers"]["up"]["kernel"][np.array(chosen)]
    )


def test_no_buffer_is_shared_so_that_the_student_may_be_donated(teacher):
    student = student_from_teacher(teacher, list(range(6)))
    pairs = zip(jax.tree.leaves(student.params), jax.tree.leaves(teacher.params), strict=True)
    for ours, theirs in pairs:
        assert ours.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_a_fresh_head_depends_on_the_seed(teacher):
    first, again, other = (
        student_from_teacher(teacher, 2, seed=seed, fresh_head=True) for seed in (1, 1, 2)
    )
    kernels = [model.params["head"]["output"]["kernel"] for model in (first, again, other, teacher)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0
    assert np.abs(kernels[0] - kernels[3]).max() > 0
    assert {"head/output/kernel", "head/output/bias"} <= set(first.initialized)


@pytest.mark.parametrize("family", ["distilbert", "mobilebert", "roberta"])
def test_students_of_other_families_are_saved_and_loaded(family, tmp_path):
    student = student_from_teacher(build_model(parity.spec(family), num_labels=2), 2)
    save_model(tmp_path / "m", student)
    again = load_model(tmp_path / "m")
    assert again.config.num_hidden_layers == 2
    jax.tree.map(np.testing.assert_array_equal, again.params, student.params)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "got 0, expected 1 to 6; the teacher has 6 layers"),
        (7, "got 7, expected 1 to 6; the teacher has 6 layers"),
        ([], r"got \[\], expected some of 0 to 5; the teacher has 6 layers"),
        ([0, 6], r"got \[0, 6\], expected some of 0 to 5; the teacher has 6 layers"),
        ([-1], r"got \[-1\], expected some of 0 to 5"),
        ([1, 1], r"got \[1, 1\], expected each at most once; the teacher has 6 layers"),
    ],
)
def test_faulty_layers_are_named(teacher, layers, message):
    with pytest.raises(ModelError, match=message):
        student_from_teacher(teacher, layers)
