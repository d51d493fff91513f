"""GPT-2 against transformers on PyTorch, and what every decoder shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import decoders, parity

from jaxdistill.errors import ModelError
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.models.shrink.layers import student_from_teacher


@pytest.mark.parametrize("head", ["lm", None])
def test_outputs_equal_those_of_transformers(head, tmp_path):
    theirs = parity.reference("gpt2", head, tmp_path)
    model = load_model(tmp_path, head=head)
    assert model.initialized == ()
    for side in ("left", "right"):
        decoders.check_outputs(model, theirs, decoders.padded(side), 1e-4)


@pytest.mark.slow
def test_an_untied_head_equals_that_of_transformers(tmp_path):
    theirs = parity.reference("gpt2", "lm", tmp_path / "a", tie_word_embeddings=False)
    model = load_model(tmp_path / "a")
    assert "head" in model.params
    decoders.check_outputs(model, theirs, decoders.padded("right"), 1e-4)
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", "lm", decoders.whole())


def test_gradients_equal_those_of_transformers(tmp_path):
    theirs = parity.reference("gpt2", "lm", tmp_path)
    parity.check_gradients(load_model(tmp_path), theirs, decoders.padded("right"), 1e-3)


@pytest.mark.parametrize("head", ["lm", None])
def test_round_trip(head, tmp_path):
    parity.reference("gpt2", head, tmp_path / "a")
    parity.check_round_trip(tmp_path / "a", tmp_path / "b", head, decoders.whole())


def test_a_bare_checkpoint_gives_a_language_model_whose_head_is_tied(tmp_path):
    parity.reference("gpt2", None, tmp_path / "a")
    model = load_model(tmp_path / "a")
    assert model.options is not None
    assert model.options.head == "lm"
    assert model.initialized == ()
    assert parity.run(model, decoders.whole()).logits.shape == (2, 12, 99)


@pytest.mark.slow
def test_packed_and_padded_rows_equal_separate_rows():
    model = build_model(parity.spec("gpt2", initializer_range=0.2))
    decoders.check_packed(model, positions=(True, False))


def test_logits_are_left_out_when_not_asked_for():
    model = build_model(parity.spec("gpt2"), logits=False)
    outputs = parity.run(model, decoders.whole())
    assert outputs.logits is None
    expected = parity.run(build_model(parity.spec("gpt2")), decoders.whole()).logits
    np.testing.assert_allclose(outputs.hidden @ outputs.head().weights, expected, atol=1e-5)


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth():
    few, many = (
        decoders.gradient_text(build_model(parity.spec("gpt2", n_layer=depth))) for depth in (4, 32)
    )
    assert len(many) < 1.3 * len(few)


@pytest.mark.slow
def test_scan_options_change_nothing():
    def values(**options):
        model = build_model(parity.spec("gpt2", attn_pdrop=0.0, resid_pdrop=0.0), **options)
        batch = {name: jnp.asarray(value) for name, value in decoders.padded("left").items()}

        def loss(params):
            outputs = model.apply(params, batch, rng=jax.random.key(1), train=True)
            return (outputs.logits[0] ** 2).sum()

        return jax.tree.leaves(parity.compiled(jax.value_and_grad(loss))(model.params))

    plain = values()
    for options in ({"unroll": 2}, {"remat": True, "unroll": 8}):
        for expected, got in zip(plain, values(**options), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_dropout_draws_by_key_in_training_only():
    model = build_model(parity.spec("gpt2"))
    batch = decoders.whole()
    plain = parity.run(model, batch).logits
    np.testing.assert_array_equal(parity.run(model, batch, rng=jax.random.key(0)).logits, plain)
    for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop"):
        rates = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0) | {name: 0.5}
        model = build_model(parity.spec("gpt2", initializer_range=0.2, **rates))
        quiet = parity.run(model, batch).logits
        drawn = [
            parity.run(model, batch, rng=jax.random.key(seed), train=True).logits
            for seed in (0, 0, 1)
        ]
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert np.abs(drawn[0] - drawn[2]).max() > 1e-3, name
        assert np.abs(drawn[0] - quiet).max() > 1e-3, name


@pytest.mark.mostly_slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_of_padding_gives_no_nan(dtype):
    model = build_model(parity.spec("gpt2"), dtype=dtype)
    batch = {name: jnp.asarray(value) for name, value in decoders.padded("left").items()}
    batch["attention_mask"] = batch["attention_mask"].at[0].set(0)

    def loss(params):
        outputs = model.apply(params, batch)
        assert outputs.logits.dtype == jnp.float32
        assert outputs.hidden.dtype == jnp.dtype(dtype)
        return outputs.logits.sum()

    for leaf in jax.tree.leaves(parity.compiled(jax.value_and_grad(loss))(model.params)):
        assert np.isfinite(leaf).all()


def test_rows_longer_than_the_table_of_positions_are_refused():
    model = build_model(parity.spec("gpt2"))
    with pytest.raises(ModelError, match="25 tokens, expected at most 24"):
        parity.run(model, {"input_ids": np.full((1, 25), 7, np.int32)})


def test_an_unknown_head_is_named():
    with pytest.raises(ModelError, match="'classification' for gpt2, expected one of"):
        build_model(parity.spec("gpt2"), head="classification", num_labels=2)


@pytest.mark.slow
def test_a_student_of_some_layers_runs_and_is_saved(tmp_path):
    teacher = build_model(parity.spec("gpt2", initializer_range=0.2))
    student = student_from_teacher(teacher, [0, 2])
    save_model(tmp_path, student)
    again = load_model(tmp_path)
    batch = decoders.whole()
    np.testing.assert_array_equal(
        parity.run(again, batch).logits, parity.run(student, batch).logits
    )
    for path, value in flatten(student.params["layers"]).items():
        expected = np.asarray(flatten(teacher.params["layers"])[path])[[0, 2]]
        np.testing.assert_array_equal(value, expected)
