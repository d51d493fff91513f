"""Runs with language models: sizes, refusals before anything starts, and one whole toy run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.texts import GPT2, values, write_corpus

from jaxdistill.config.load import check, load_config
from jaxdistill.data.text.bpe import trained_tokenizer
from jaxdistill.distill import models as build
from jaxdistill.distill import stages
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.evaluation.report import write_report
from jaxdistill.models.registry import build_model, load_model, save_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


def test_a_model_from_scratch_takes_its_sizes_from_the_data(corpus, tmp_path):
    config = check(values(corpus))
    dataset = build.load_data(config, tmp_path)
    teacher = build.load_teacher(config, dataset, training=True, seed=0)
    assert teacher.config.vocab_size == dataset.vocabulary == 280
    assert teacher.config.n_positions == dataset.train.labels.shape[1] == 32
    assert teacher.config.extra["eos_token_id"] == 0
    assert teacher.options is not None
    assert not teacher.options.logits
    dense = check(values(corpus, losses="dense"))
    again = build.load_teacher(dense, dataset, training=True, seed=0)
    assert again.options is not None
    assert again.options.logits


@pytest.mark.parametrize("field", ["n_positions", "max_position_embeddings"])
def test_rows_longer_than_the_positions_are_refused_before_anything_is_read(tmp_path, field):
    model = {**GPT2, field: 16}
    config = check(values(str(tmp_path / "nowhere"), teacher={"model": model}))
    with pytest.raises(DataError, match="rows of 32 tokens, expected at most 16, the positions"):
        build.load_data(config, tmp_path)
    folder = tmp_path / "teacher"
    save_model(folder, build_model({**GPT2, "vocab_size": 300, "n_positions": 16}))
    config = check(values(str(tmp_path / "nowhere"), teacher={"model": str(folder)}))
    with pytest.raises(DataError, match="expected at most 16, the positions of the teacher"):
        build.load_data(config, tmp_path)


def test_what_fused_losses_cannot_do_is_refused_by_name(corpus):
    wrong = {"soft": {"loss": "mse_logits"}}
    with pytest.raises(ConfigError, match=r"objective.soft.loss: got 'mse_logits'.*losses=dense"):
        check(values(corpus, objective=wrong))
    assert check(values(corpus, objective=wrong, losses="dense")).terms["soft"].weight == 1.0
    smooth = {"hard": {"loss": "cross_entropy", "label_smoothing": 0.1}}
    with pytest.raises(ConfigError, match=r"label_smoothing: got 0.1.*losses=dense"):
        check(values(corpus, objective=smooth))
    with pytest.raises(ConfigError, match="metric: got 'f1' for task 'language_model'"):
        check(values(corpus, metric="f1"))
    assert not check(values(corpus)).higher_is_better
    assert not check(values(corpus, metric="bits_per_byte")).higher_is_better
    assert check(values(corpus, metric="accuracy")).higher_is_better


@pytest.mark.slow
def test_models_of_other_tokenizers_are_found_out(corpus, tmp_path):
    config = check(values(corpus))
    texts = [path.read_text() for path in sorted(Path(corpus).iterdir())]
    folders = {}
    for name, size in (("teacher", 280), ("student", 270)):
        spec = {**GPT2, "vocab_size": 280, "n_positions": 32}
        tokenizer = trained_tokenizer(texts[size - 270 :], vocabulary=size, folder=tmp_path)
        folders[name] = str(tmp_path / name)
        save_model(folders[name], build_model(spec), tokenizer_from=tokenizer)
    given = values(corpus, teacher={"model": folders["teacher"]}, finetune=None)
    given["student"] = {"model": folders["student"]}
    given["data"].pop("tokenizer")
    found = stages.examine(check(given), tmp_path / "work")
    fatal = [f for f in found if f.level == "fatal" and f.name == "tokenizer"]
    assert len(fatal) == 1
    assert "of 280 tokens have another id in the student's vocabulary" in fatal[0].message
    told = {finding.name: finding.message for finding in found}
    assert told["losses"].startswith("fused, in chunks of tokens: logits of 256 tokens x 280")
    assert config.losses == "fused"


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> tuple[str, Path, dict[str, Any]]:
    """A config, the work directory of its finished run, and the result."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "toy.yaml"
    path.write_text(json.dumps(values(corpus)))
    workdir = folder / "work"
    return str(path), workdir, stages.run(load_config(str(path)), workdir)


@pytest.mark.slow
def test_a_run_measures_perplexity_and_bits_per_byte(finished):
    _, workdir, result = finished
    assert result["metric"] == "perplexity"
    assert result["higher_is_better"] is False
    for arm, count in (("teacher", 1), ("student_alone", 2), ("student_distilled", 2)):
        assert len(result[arm]["values"]) == count
        assert len(result[arm]["also"]["bits_per_byte"]) == count
        assert all(1 < value < 280 for value in result[arm]["values"])
    rows = (workdir / "distill" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    trained = json.loads(rows[0])
    assert {"soft", "hard", "loss", "gradient_norm"} <= set(trained)
    best = json.loads((workdir / "finetune" / "result.json").read_text())
    evaluations = [
        json.loads(row)
        for row in (workdir / "finetune" / "metrics.jsonl").read_text().splitlines()
        if '"evaluation"' in row
    ]
    assert best["value"] == min(row["perplexity"] for row in evaluations)
    assert "bits per byte" in write_report(workdir).read_text()


@pytest.mark.slow
def test_the_export_is_a_plain_hugging_face_folder_with_its_tokenizer(finished):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    _, workdir, result = finished
    folder = workdir / "export" / "student"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "def x ( 1 ) : return x + 2 * y if x else 1\n"
    start = tokenizer.bos_token_id
    ids = [start, *tokenizer(text)["input_ids"], start]
    ours = load_model(folder)
    with torch.no_grad():
        given = torch.tensor([ids])
        expected = theirs(given, labels=given)
    found = ours.apply(ours.params, {"input_ids": np.array([ids], np.int32)})
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    # The perplexity of a run is that of transformers on the same documents, one at a time.
    config = load_config(str(workdir / "config.yaml"))
    dataset = build.load_data(config, workdir / "data")
    total, count = 0.0, 0
    split = dataset.validation
    for row in range(len(split)):
        own = slice(split.inputs.offsets[row], split.inputs.offsets[row + 1])
        tokens, segments = split.inputs.tokens[own], split.inputs.segments[own]
        for segment in range(1, segments.max() + 1):
            document = torch.tensor(tokens[segments == segment].astype(np.int64))[None]
            with torch.no_grad():
                loss = theirs(document, labels=document).loss
            total += float(loss) * (document.shape[1] - 1)
            count += document.shape[1] - 1
    accounts = json.loads((workdir / "distill" / "result.json").read_text())["seeds"]
    best = min(accounts, key=lambda account: account["value"])
    index = result["seeds"].index(best["seed"])
    assert np.exp(total / count) == pytest.approx(
        result["student_distilled"]["values"][index], rel=1e-4
    )


@pytest.mark.slow
def test_a_finished_run_is_kept_and_dense_losses_give_the_same(finished, corpus, tmp_path, capsys):
    config, workdir, result = finished
    again = stages.run(load_config(config), workdir)
    assert again["student_distilled"] == result["student_distilled"]
    assert "distill  done before, kept" in capsys.readouterr().err
    dense = check(values(corpus, losses="dense", seeds=[0]))
    found = stages.run(dense, tmp_path / "dense")
    for arm in ("teacher", "student_alone", "student_distilled"):
        assert found[arm]["values"][0] == pytest.approx(result[arm]["values"][0], rel=2e-3)
