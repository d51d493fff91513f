"""A whole toy run: stages, files, skipping, refusing, exporting."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from models.sentences import encoded
from sklearn.metrics import f1_score
from support import runs
from support.setups import LABELS

from jaxdistill.cli.app import call
from jaxdistill.config.load import load_config
from jaxdistill.distill import stages, workdir_lock
from jaxdistill.errors import ConfigError
from jaxdistill.evaluation.uncertainty import difference_error
from jaxdistill.models.registry import load_model

TEACHER = {"epochs": 15, "batch_size": 16, "learning_rate": 1e-2}
TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[str, Path, dict]:
    """A config, the work directory of its finished run, and the result."""
    folder = tmp_path_factory.mktemp("run")
    config = runs.write_config(folder, finetune=TEACHER, train=TRAIN, seeds=[3, 5])
    workdir = folder / "work"
    return config, workdir, stages.run(load_config(config), workdir)


@pytest.mark.slow
def test_result_has_the_promised_form(finished):
    _, workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    assert result["metric"] == "accuracy"
    assert result["higher_is_better"] is True
    assert result["seeds"] == [3, 5]
    assert isinstance(result["verdict"], str)
    keys = {"values", "parameters", "bytes", "latency_ms", "examples_per_second", "agreement"}
    for model, runs_ in (("teacher", 1), ("student_alone", 2), ("student_distilled", 2)):
        assert keys <= set(result[model])
        assert len(result[model]["values"]) == runs_
    assert result["teacher"]["parameters"] > result["student_distilled"]["parameters"]
    assert result["teacher"]["values"][0] > 0.8


@pytest.mark.slow
def test_every_stage_leaves_its_files(finished):
    _, workdir, _ = finished
    for stage in ("finetune", "baseline", "distill", "evaluate"):
        assert (workdir / stage / "result.json").is_file()
    for seed in (3, 5):
        rows = (workdir / "distill" / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["event"] == "evaluation"
        assert (workdir / "distill" / f"seed-{seed}" / "checkpoints").is_dir()
    assert (workdir / "report.html").stat().st_size > 10_000
    assert load_config(str(workdir / "config.yaml")).seeds == (3, 5)


@pytest.mark.slow
def test_export_is_a_plain_hugging_face_folder(finished):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    _, workdir, _ = finished
    folder = workdir / "export" / "student"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    inputs = tokenizer(["a good film", "one bad"], padding=True, return_tensors="np")
    batch = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    ours = load_model(folder)
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(leaf) for name, leaf in batch.items()}).logits
    np.testing.assert_allclose(ours.apply(ours.params, batch).logits, expected, atol=1e-5)


@pytest.mark.slow
def test_a_student_that_pools_by_the_mean_is_exported_as_it_was_measured(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = runs.write_config(
        tmp_path,
        data={"max_length": 5},
        teacher={"pooling": "mean"},
        student={"pooling": "mean"},
        finetune=TEACHER,
        train=TRAIN,
    )
    stages.run(load_config(config), tmp_path / "work")
    assert "the export is a folder for sentence-transformers" in capsys.readouterr().err
    folder = tmp_path / "work" / "export" / "student"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "0_Transformer")
    lines = (tmp_path / "dev.tsv").read_text().splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines]
    read = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    assert read["input_ids"].shape[1] == 5
    with np.load(tmp_path / "work" / "evaluate" / "predictions.npz") as measured:
        expected = measured["distilled_logits"][0]
    got = encoded(folder, {name: np.asarray(leaf, np.int32) for name, leaf in read.items()})
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_second_run_keeps_every_stage_and_a_change_is_refused_by_name(finished, capsys):
    config, workdir, result = finished
    stamp = (workdir / "distill" / "result.json").stat().st_mtime_ns
    again = stages.run(load_config(config), workdir)
    assert again["student_distilled"]["values"] == result["student_distilled"]["values"]
    assert (workdir / "distill" / "result.json").stat().st_mtime_ns == stamp
    assert "distill  done before, kept" in capsys.readouterr().err
    changed = load_config(config, ["train.learning_rate=1e-2"])
    with pytest.raises(ConfigError, match=r"baseline: .*train.learning_rate: 0.003 -> 0.01.*force"):
        stages.run(changed, workdir)
    assert (workdir / "finetune" / "result.json").is_file()
    assert load_config(str(workdir / "config.yaml")).train.learning_rate == 3e-3


@pytest.mark.slow
def test_f1_is_that_of_the_label_that_the_config_names(tmp_path, capsys):
    path = runs.write_config(
        tmp_path, metric="f1", data={"positive": LABELS[0]}, finetune=TEACHER, train=TRAIN
    )
    workdir = tmp_path / "work"
    assert call(["evaluate", path, "--workdir", str(workdir)]) == 0
    captured = capsys.readouterr()
    result = json.loads((workdir / "result.json").read_text())
    assert result["metric_of"] == f"that of the label {LABELS[0]!r}"
    assert result["metric_of"] in " ".join(captured.out.split())
    with np.load(workdir / "evaluate" / "predictions.npz") as found:
        labels, teacher = found["labels"], found["teacher_logits"]
        alone, distilled = found["alone_logits"], found["distilled_logits"]
    for row, logits in (("teacher", teacher), ("student_alone", alone[0])):
        f1 = f1_score(labels, logits.argmax(-1), pos_label=0, zero_division=0)
        assert result[row]["values"] == [pytest.approx(f1)]
    account = json.loads((workdir / "baseline" / "seed-0" / "result.json").read_text())
    # The best of training is measured as the evaluation measures it, on the same split.
    assert account["value"] == pytest.approx(result["student_alone"]["values"][0])
    error = difference_error("classification", alone, distilled, labels, "f1", positive=0)
    assert result["evaluation_error"] == pytest.approx(error.examples)


@pytest.mark.slow
def test_a_report_needs_no_data_and_no_place_and_waits_for_no_run(finished, tmp_path, monkeypatch):
    """The whole project is moved, its data are lost, and somebody types from elsewhere."""
    config, _, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(Path(config).parent, moved)
    shutil.rmtree(moved / "teacher")
    for name in ("train.tsv", "dev.tsv"):
        (moved / name).unlink()
    values = json.loads((moved / "toy.yaml").read_text())
    for section, name in (("data", "train"), ("data", "validation"), ("teacher", "model")):
        values[section][name] = Path(values[section][name]).name
    (moved / "toy.yaml").write_text(json.dumps(values))
    (moved / "work" / "report.html").unlink()
    monkeypatch.chdir(moved)
    with workdir_lock.held(moved / "work"):
        assert call(["report", "toy.yaml", "--workdir", "work"]) == 0
    assert "train.learning_rate" not in (moved / "work" / "report.html").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (moved / "work" / "report.html").unlink()
    assert call(["report", "../moved/work"]) == 0
    assert (moved / "work" / "report.html").is_file()
    # Another configuration is another run, whose data are needed.
    assert call(["report", "../moved/work", "train.epochs=1"]) == 2


@pytest.mark.slow
def test_the_same_run_typed_otherwise_is_the_same(finished, tmp_path, monkeypatch, capsys):
    config, workdir, _ = finished
    folder = Path(config).parent
    monkeypatch.chdir(folder)
    changes = ["data.train=train.tsv", "teacher.model=../" + folder.name + "/teacher"]
    stages.run(load_config(config, changes), Path("work"), until="distill")
    # The work directory alone, moved beside nothing that it was made from.
    shutil.copytree(workdir, tmp_path / "alone")
    stages.run(load_config(config), tmp_path / "alone", until="distill")
    assert capsys.readouterr().err.count("distill  done before, kept") == 2


@pytest.mark.slow
def test_a_run_beside_a_run_is_refused_and_the_first_one_goes_on(finished, capsys):
    config, workdir, _ = finished
    with workdir_lock.held(workdir):
        for command in ("run", "finetune", "evaluate"):
            assert call([command, config, "train.epochs=2", "--workdir", str(workdir)]) == 2
            assert "is in use by another run (process" in capsys.readouterr().err
