"""Checkpoints as they are found: equal to the model that was saved, or refused with the way out."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
}
BERT = {
    "family": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
IDS = np.arange(10).reshape(2, 5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a tied and an untied language model and a classifier."""
    folder = tmp_path_factory.mktemp("saved")
    for name, tied in (("tied", True), ("untied", False)):
        spec = {"family": "llama", **SIZES, "tie_word_embeddings": tied}
        save_model(folder / name, build_model(spec, seed=3))
    save_model(folder / "bert", build_model(BERT, num_labels=3, seed=3))
    return folder


def said(folder: Path, **options) -> np.ndarray:
    model = load_model(folder, **options)
    return np.asarray(model.apply(model.params, {"input_ids": IDS}).logits)


def check_same(folder: Path, other: Path) -> None:
    ours, theirs = load_model(folder), load_model(other)
    assert ours.initialized == theirs.initialized == ()
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def changed(saved: Path, name: str, folder: Path, tensors=None, **config) -> Path:
    """Copy a model with other tensors and other values in its config."""
    target = folder / name
    shutil.copytree(saved / name, target)
    path = target / "model.safetensors"
    if tensors is not None:
        save_file(tensors(load_file(path)), path)
    raw = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **config}))
    return target


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ["tied", "untied", "bert"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"_forward_module.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: f"student.{name}",
        lambda name: f"model.{name}",
        lambda name: f"module.net.{name}",
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
        lambda name: name.replace("layer.0.", "layer.0._orig_mod."),
    ],
)
def test_what_a_wrapper_put_around_names_is_taken_off_and_said(saved, tmp_path, caplog, name, wrap):
    folder = changed(
        saved, name, tmp_path, lambda tensors: {wrap(key): leaf for key, leaf in tensors.items()}
    )
    names = load_file(folder / "model.safetensors")
    check_same(folder, saved / name)
    touched = set(names) != set(load_file(saved / name / "model.safetensors"))
    assert ("the names of a wrapper are taken off" in caplog.text) == touched


def test_a_base_model_keeps_its_own_names(saved, tmp_path, caplog):
    """All of them begin with `model.`, which no wrapper put there."""
    load_model(saved / "tied")
    bare = changed(
        saved,
        "tied",
        tmp_path,
        lambda tensors: {key.removeprefix("model."): leaf for key, leaf in tensors.items()},
    )
    check_same(bare, saved / "tied")
    assert "taken off" not in caplog.text


def test_adapters_apart_from_their_weights_are_refused(saved, tmp_path):
    prefix = "base_model.model."

    def adapted(tensors):
        found = {prefix + key: leaf for key, leaf in tensors.items()}
        name = "model.layers.0.self_attn.q_proj"
        found[f"{prefix}{name}.base_layer.weight"] = found.pop(f"{prefix}{name}.weight")
        found[f"{prefix}{name}.lora_A.default.weight"] = np.zeros((2, 8), np.float32)
        return found

    folder = changed(saved, "untied", tmp_path, adapted)
    assert "got adapters beside the weights" in refusal(folder)
    assert "merge_and_unload" in refusal(folder)
    alone = tmp_path / "adapter"
    alone.mkdir()
    (alone / "adapter_config.json").write_text('{"base_model_name_or_path": "meta/llama"}')
    save_file({"x": np.zeros(1, np.float32)}, alone / "adapter_model.safetensors")
    assert "of the model 'meta/llama', expected a whole model; merge the two" in refusal(alone)


@pytest.mark.parametrize("name", ["untied", "bert"])
def test_plain_weights_that_are_said_to_be_quantized(saved, tmp_path, caplog, name):
    """They load, and what is written out again does not say so any more."""
    how = {"quant_method": "gptq", "bits": 4}
    folder = changed(saved, name, tmp_path, quantization_config=how)
    check_same(folder, saved / name)
    assert "says quantization by 'gptq', but the weights are plain" in caplog.text
    save_model(tmp_path / "again", load_model(folder))
    assert "quantization_config" not in json.loads((tmp_path / "again/config.json").read_text())


@pytest.mark.parametrize(
    ("method", "add"),
    [
        ("gptq", {"qweight": np.zeros((2, 2), np.int32), "scales": np.zeros(2, np.float16)}),
        ("bitsandbytes", {"weight.absmax": np.zeros(2), "weight": np.zeros(9, np.uint8)}),
        ("fp8", {"weight_scale_inv": np.zeros((1, 1), np.float32)}),
    ],
)  # fmt: skip
def test_quantized_weights_are_refused_by_their_method(saved, tmp_path, method, add):
    place = "model.layers.0.self_attn.q_proj"
    folder = changed(
        saved,
        "untied",
        tmp_path,
        lambda tensors: tensors | {f"{place}.{key}": leaf for key, leaf in add.items()},
        quantization_config={"quant_method": method},
    )
    message = refusal(folder)
    assert f"got weights quantized by {method!r}" in message
    assert "give the model that was quantized" in message


@pytest.mark.slow
def test_another_head_beside_a_tied_table_is_kept_as_transformers_keeps_it(saved, tmp_path, caplog):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def with_head(tensors):
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 0.1}

    folder = changed(saved, "tied", tmp_path, with_head)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(said(folder), expected, atol=1e-5)
    assert "lm_head.weight is another; both are kept" in caplog.text
    save_model(tmp_path / "again", load_model(folder))
    assert json.loads((tmp_path / "again/config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(said(tmp_path / "again"), said(folder))


def test_a_head_that_is_lost_is_never_drawn_unasked(saved, tmp_path):
    def headless(tensors):
        return {key: leaf for key, leaf in tensors.items() if key != "lm_head.weight"}

    folder = changed(saved, "untied", tmp_path, headless)
    message = refusal(folder)
    assert "got no lm_head.weight, expected the head of a language model" in message
    assert "set tie_word_embeddings: true in config.json" in message
    assert load_model(folder, fresh_head=True).initialized == ("head/kernel",)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": True}))
    assert load_model(folder).initialized == ()


def test_what_does_not_fit_comes_with_the_way_out(saved, tmp_path):
    folder = changed(saved, "tied", tmp_path, vocab_size=24)
    message = refusal(folder)
    assert "embed_tokens.weight got [20, 8] F32, expected [24, 8]" in message
    assert "copy both from one place, or correct its sizes" in message

    def classifier(tensors):
        tensors.pop("lm_head.weight")
        return {**tensors, "score.weight": np.zeros((3, 8), np.float32)}

    folder = changed(saved, "untied", tmp_path, classifier)
    assert "got the head of a classifier (score.weight) and no lm_head.weight" in refusal(folder)
    renamed = changed(
        saved, "bert", tmp_path, lambda tensors: {f"x{k}": v for k, v in tensors.items()}
    )
    assert "are these the names that save_pretrained of transformers writes?" in refusal(renamed)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("dynamic", "take the scaling out of config.json"),
        ("yarn", "give a model without one"),
        ("longrope", "give a model without one"),
    ],
)
def test_a_rope_that_is_not_supported_comes_with_the_way_out(saved, tmp_path, kind, way):
    folder = changed(
        saved, "untied", tmp_path, rope_parameters=None, rope_scaling={"type": kind, "factor": 2.0}
    )
    assert f"rope_type: got {kind!r}" in refusal(folder)
    assert way in refusal(folder)


def test_a_dynamic_rope_changes_nothing_within_the_positions(saved, tmp_path):
    """So that the way out which is told is one."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rope = {"type": "dynamic", "factor": 2.0}
    folder = changed(saved, "untied", tmp_path, rope_parameters=None, rope_scaling=rope)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(said(saved / "untied"), expected, atol=1e-5)
