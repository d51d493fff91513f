"""Model folders: what is read, and what is refused and why."""

import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from models import parity
from models.folders import change_config, change_tensors, equal
from safetensors.numpy import load_file

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model


def test_every_fault_of_the_tensors_is_in_one_error(folder):
    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        del tensors["bert.embeddings.LayerNorm.weight"]
        tensors["bert.encoder.layer.3.output.dense.bias"] = np.zeros(32, np.float32)
        tensors["classifier.weight"] = np.zeros((3, 31), np.float32)
        tensors["bert.pooler.dense.bias"] = np.zeros(32, np.int8)

    change_tensors(folder, spoil)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    for part in (
        "2 missing: ",
        "bert.embeddings.LayerNorm.weight [32]",
        "bert.encoder.layer.1.output.dense.bias [32]",
        "1 unexpected: bert.encoder.layer.3.output.dense.bias [32]",
        "2 misshapen: ",
        "classifier.weight got [3, 31] F32, expected [3, 32] F32",
        "bert.pooler.dense.bias got [32] I8, expected [32] F32",
    ):
        assert part in message
    assert "\n" not in message


def test_long_lists_of_faults_are_cut_and_counted(folder):
    change_config(folder, num_hidden_layers=5)
    with pytest.raises(ModelError, match=r"32 missing: .* and 24 more"):
        load_model(folder)


def test_a_deeper_checkpoint_is_not_cut_in_silence(folder):
    change_config(folder, num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"16 unexpected: bert.encoder.layer.2"):
        load_model(folder)


def test_values_that_are_not_finite_are_refused(folder):
    change_tensors(folder, lambda t: t["bert.pooler.dense.bias"].fill(np.nan))
    with pytest.raises(ModelError, match=r"not finite in bert.pooler.dense.bias"):
        load_model(folder)


def test_a_tied_copy_must_be_equal_or_may_be_alone(tmp_path):
    model = build_model(parity.spec("bert"), head="masked_lm")
    save_model(tmp_path / "m", model)
    word, copy = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    assert copy not in load_file(tmp_path / "m" / "model.safetensors")
    change_tensors(tmp_path / "m", lambda t: t.update({copy: t[word]}))
    assert equal(load_model(tmp_path / "m", head="masked_lm").params, model.params)
    change_tensors(tmp_path / "m", lambda t: t.pop(word))
    assert equal(load_model(tmp_path / "m", head="masked_lm").params, model.params)
    change_tensors(tmp_path / "m", lambda t: t.update({word: t[copy] + 1}))
    with pytest.raises(ModelError, match=f"1 that must be tied: {copy} is not equal to {word}"):
        load_model(tmp_path / "m", head="masked_lm")
    # Without that head an untied copy is of no concern.
    change_config(tmp_path / "m", tie_word_embeddings=False)
    assert load_model(tmp_path / "m", head=None).initialized == ()


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named_with_its_size(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model.safetensors: got {len(content)} bytes"):
        load_model(folder)


def test_a_garbled_header_is_named(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors: got .* no whole safetensors file"):
        load_model(folder)


def test_a_pickle_is_never_opened(folder):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    import pickle

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pytorch_model.bin.*convert it to safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "config.json").unlink(), "got a folder with model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "no readable JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "a JSON list, expected an object"),
        (lambda f: (f / "model.safetensors").unlink(), "expected model.safetensors or"),
        (lambda f: change_config(f, model_type=None), "no 'model_type', expected one of"),
        (lambda f: change_config(f, model_type="bart"), r"got 'bart'.*Did you mean 'bert'"),
        (lambda f: change_config(f, hidden_size="32"), "bert.hidden_size: got '32', expected int"),
        (lambda f: change_config(f, num_hidden_layers=0), "num_hidden_layers: got 0"),
        (lambda f: change_config(f, hidden_act="gleu"), "Did you mean 'gelu'"),
        (lambda f: change_config(f, num_attention_heads=5), "width 32 with 5 attention heads"),
        (lambda f: change_config(f, hidden_dropout_prob=2), "hidden_dropout_prob: got 2"),
        (lambda f: change_config(f, is_decoder=True), "is_decoder: got True, only False"),
        (
            lambda f: change_config(f, position_embedding_type="relative_key"),
            "got 'relative_key', only 'absolute' is supported",
        ),
        (lambda f: change_config(f, id2label={"a": "b"}), "id2label: got {'a': 'b'}"),
        (lambda f: change_config(f, id2label={"0": "b", "2": "c"}), "id2label: got"),
    ],
)
def test_faulty_folders_are_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_old_names_bare_names_and_extra_heads_are_understood(folder, caplog):
    expected = load_model(folder)

    def rename(tensors):
        for name in list(tensors):
            new = name.removeprefix("bert.")
            new = new.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[new.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["embeddings.position_ids"] = np.arange(24)[None]
        tensors["cls.predictions.bias"] = np.zeros(99, np.float32)
        tensors["cls.seq_relationship.weight"] = np.zeros((2, 32), np.float32)

    change_tensors(folder, rename)
    with caplog.at_level(logging.INFO, "jaxdistill"):
        model = load_model(folder)
    assert equal(model.params, expected.params)
    left_out = [record.message for record in caplog.records if "left out 3" in record.message]
    assert len(left_out) == 1
    assert "embeddings.position_ids" in left_out[0]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_read_as_float32(folder, kind):
    expected = load_model(folder)
    name = "bert.embeddings.word_embeddings.weight"
    change_tensors(folder, lambda t: t.update({name: t[name].astype(jnp.dtype(kind))}))
    table = load_model(folder).params["embeddings"]["word"]["table"]
    assert table.dtype == jnp.float32
    np.testing.assert_allclose(table, expected.params["embeddings"]["word"]["table"], rtol=1e-2)


def test_a_head_that_is_not_there_is_drawn_logged_and_listed(tmp_path, caplog):
    save_model(tmp_path / "m", build_model(parity.spec("bert"), head=None))
    model = load_model(tmp_path / "m", num_labels=4, seed=1)
    assert model.initialized == ("head/output/kernel", "head/output/bias")
    assert "not in the checkpoint, drawn anew: head/output/kernel" in caplog.text
    assert model.params["head"]["output"]["kernel"].shape == (32, 4)
    kernel = np.asarray(model.params["head"]["output"]["kernel"])
    assert 0.01 < kernel.std() < 0.03
    again, other = (load_model(tmp_path / "m", num_labels=4, seed=seed) for seed in (1, 2))
    assert equal(again.params, model.params)
    assert not equal(other.params["head"], model.params["head"])
    with pytest.raises(ModelError, match="num_labels: got None"):
        load_model(tmp_path / "m")


def test_part_of_a_head_is_a_fault(folder):
    change_tensors(folder, lambda t: t.pop("classifier.bias"))
    with pytest.raises(ModelError, match=r"1 missing: classifier.bias \[3\]"):
        load_model(folder)


def test_a_bare_encoder_has_a_pooler_where_the_checkpoint_has_one(folder):
    assert "pooler" in load_model(folder, head=None).params
    change_tensors(folder, lambda t: [t.pop(n) for n in list(t) if "pooler" in n])
    model = load_model(folder, head=None)
    assert "pooler" not in model.params
    with pytest.raises(ModelError, match="got 'pooled'"):
        parity.run(model, parity.text_batch(0), ("pooled",))


@pytest.mark.slow
def test_labels_come_from_the_checkpoint_and_may_be_reordered(folder, caplog):
    model = load_model(folder)
    assert model.labels == ("sad", "so-so", "happy")
    assert model.source == folder
    turned = load_model(folder, labels=["happy", "sad", "so-so"])
    assert turned.labels == ("happy", "sad", "so-so")
    assert "outputs reordered" in caplog.text
    respelt = load_model(folder, labels=["SAD", "So So", "happy"])
    assert respelt.labels == ("SAD", "So So", "happy")
    batch = parity.text_batch(0)
    np.testing.assert_allclose(
        parity.run(turned, batch).logits, parity.run(model, batch).logits[:, [2, 0, 1]], atol=1e-6
    )
    upper = load_model(folder, labels=["HAPPY", "SAD", "SO-SO"])
    np.testing.assert_allclose(
        parity.run(upper, batch).logits, parity.run(turned, batch).logits, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["a", "b", "c"]}, r"got labels \['a', 'b', 'c'\], expected those"),
        ({"labels": ["happy", "sad"]}, "got 2 labels, expected the 3"),
        ({"num_labels": 4}, r"got 4 labels, expected the 3.*fresh_head=True"),
        ({"labels": ["a", "a", "c"], "fresh_head": True}, "expected names that differ"),
        ({"labels": ["a", "b"], "num_labels": 3}, "num_labels: got 3, expected the number"),
        ({"head": "mlm"}, "head: got 'mlm' for bert"),
        ({"dtype": "float16"}, "dtype: got 'float16'.*Did you mean 'bfloat16'"),
        ({"pooling": "max"}, "pooling: got 'max'"),
        ({"problem_type": "ranking"}, "problem_type: got 'ranking'"),
        ({"unroll": 0}, "unroll: got 0"),
    ],
)
def test_faulty_options_are_named(folder, options, message):
    with pytest.raises(ModelError, match=message):
        load_model(folder, **options)


def test_a_fresh_head_replaces_that_of_the_checkpoint(folder):
    model = load_model(folder, labels=["a", "b"], fresh_head=True)
    assert model.initialized == ("head/output/kernel", "head/output/bias")
    assert model.params["head"]["output"]["bias"].shape == (2,)
