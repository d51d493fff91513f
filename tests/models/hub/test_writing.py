"""What is written into a model folder: whole, readable by transformers, or not at all."""

import json

import jax
import pytest
from models import parity
from models.folders import change_config, equal

from jaxdistill.errors import ModelError
from jaxdistill.models.registry import build_model, load_model, save_model


def test_shards_are_written_and_read(folder, tmp_path):
    model = load_model(folder)
    save_model(tmp_path / "shards", model, shard_bytes=40_000)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert equal(load_model(tmp_path / "shards").params, model.params)
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    kind = transformers.AutoModelForSequenceClassification
    _, info = kind.from_pretrained(tmp_path / "shards", output_loading_info=True)
    assert not info["missing_keys"]
    index = tmp_path / "shards" / "model.safetensors.index.json"
    lost = tmp_path / "shards" / files[1]
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(ModelError, match=f"{files[1]}: got no file"):
        load_model(tmp_path / "shards")
    lost.write_bytes(content)
    places = json.loads(index.read_text())
    places["weight_map"]["classifier.extra"] = files[0]
    index.write_text(json.dumps(places))
    with pytest.raises(ModelError, match=r"1 tensors not in their shard: classifier.extra"):
        load_model(tmp_path / "shards")
    places["weight_map"]["classifier.extra"] = "../model.safetensors"
    index.write_text(json.dumps(places))
    with pytest.raises(ModelError, match="expected a bare file name"):
        load_model(tmp_path / "shards")


def test_the_config_says_what_the_model_is_and_keeps_what_it_came_with(folder, tmp_path):
    change_config(folder, torch_dtype="float16", _name_or_path="/somewhere", max_tokens=7)
    save_model(tmp_path / "out", load_model(folder, problem_type="multi_label_classification"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "sad", "1": "so-so", "2": "happy"}
    assert config["label2id"] == {"sad": 0, "so-so": 1, "happy": 2}
    assert config["problem_type"] == "multi_label_classification"
    assert (config["dtype"], config["max_tokens"]) == ("float32", 7)
    assert not {"torch_dtype", "_name_or_path"} & config.keys()
    assert load_model(tmp_path / "out").options.problem_type == "multi_label_classification"


def test_one_output_is_a_regression(tmp_path):
    save_model(tmp_path / "m", build_model(parity.spec("bert"), num_labels=1))
    assert json.loads((tmp_path / "m" / "config.json").read_text())["problem_type"] == "regression"
    assert load_model(tmp_path / "m").params["head"]["output"]["kernel"].shape == (32, 1)


def test_the_tokenizer_travels_along(folder, tmp_path, caplog):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").write_text("a\n")
    (folder / "training_args.bin").write_text("private")
    save_model(tmp_path / "one", load_model(folder))
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
    assert "without a tokenizer" not in caplog.text
    fresh = build_model(parity.spec("bert"), num_labels=2)
    save_model(tmp_path / "two", fresh, tokenizer_from=folder)
    assert (tmp_path / "two" / "vocab.txt").read_text() == "a\n"
    save_model(tmp_path / "three", fresh)
    assert "saved without a tokenizer" in caplog.text


def test_saving_replaces_a_model_whole_and_keeps_other_files(folder, tmp_path):
    model = load_model(folder)
    target = tmp_path / "out"
    save_model(target, model, shard_bytes=40_000)
    (target / "README.md").write_text("mine")
    save_model(target, model)
    names = {path.name for path in target.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_failed_save_leaves_the_model_of_before(folder, tmp_path, monkeypatch):
    model = load_model(folder)
    target = tmp_path / "out"
    save_model(target, model)
    before = (target / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    changed = jax.tree.map(lambda leaf: leaf + 1, model.params)
    with pytest.raises(ModelError, match=r"cannot be written \(.*No space left"):
        save_model(target, type(model)(**{**model.__dict__, "params": changed}))
    assert (target / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_parameters_that_do_not_fit_the_config_are_not_saved(folder, tmp_path):
    model = load_model(folder)
    params = {k: v for k, v in model.params.items() if k != "pooler"}
    with pytest.raises(ModelError, match="params/pooler/kernel: missing"):
        save_model(tmp_path / "out", type(model)(**{**model.__dict__, "params": params}))
    short = jax.tree.map(lambda leaf: leaf[:2], model.params["layers"])
    spoiled = model.params | {"layers": short}
    with pytest.raises(ModelError, match=r"params/layers/\S+: got shape \[2, .*expected \[3, "):
        save_model(tmp_path / "out", type(model)(**{**model.__dict__, "params": spoiled}))
