"""The report is one file, loads nothing, and holds the table, the figures and the command."""

import base64
import html.parser
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from jaxdistill.config.load import check, dump
from jaxdistill.errors import CheckpointError, ConfigError
from jaxdistill.evaluation import figures, report
from jaxdistill.evaluation.verdict import verdict

RANDOM = np.random.default_rng(0)


class _Page(html.parser.HTMLParser):
    """Collects what a page loads and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def _finished(folder: Path, task: str, metric: str, labels, logits, **config) -> Path:
    """Write what the stages of a finished run leave in a work directory."""
    workdir = folder / "my run"
    rows = {}
    for key, seeds in zip(("teacher", "student_alone", "student_distilled"), logits, strict=True):
        values = [0.7 + 0.01 * seed for seed in range(len(seeds))]
        rows[key] = {
            "values": values,
            "parameters": 1000,
            "bytes": 4000,
            "latency_ms": 1.0,
            "examples_per_second": 100.0,
            "agreement": values,
        }
    result = {
        "metric": metric,
        "higher_is_better": True,
        "split": "validation",
        "examples": len(labels),
        **rows,
        "seeds": [3, 4],
    }
    result["verdict"] = verdict(result)
    for stage in ("baseline", "distill"):
        for seed in (3, 4):
            own = workdir / stage / f"seed-{seed}"
            own.mkdir(parents=True)
            lines = [{"step": 5, "loss": 1.0}]
            lines += [
                {"event": "evaluation", "step": step, metric: step / 40 + seed / 100, "loss": 1.0}
                for step in (10, 20)
            ]
            text = "\n".join(json.dumps(line) for line in lines)
            (own / "metrics.jsonl").write_text(text + '\n{"event": "evalua', encoding="utf-8")
    (workdir / "evaluate").mkdir()
    names = ("teacher_logits", "alone_logits", "distilled_logits")
    arrays = dict(zip(names, (logits[0][0], *logits[1:]), strict=True))
    np.savez(workdir / "evaluate" / "predictions.npz", labels=labels, **arrays)
    (workdir / "result.json").write_text(json.dumps(result), encoding="utf-8")
    values = {
        "name": "mine",
        "task": task,
        "data": {"train": "<b>&.tsv"},
        "teacher": {"model": "x"},
        "student": {"model": "y"},
        **config,
    }
    (workdir / "config.yaml").write_text(dump(check(values)), encoding="utf-8")
    return workdir


@pytest.fixture
def classified(tmp_path) -> Path:
    labels = RANDOM.integers(0, 3, 120)
    seeds = [np.eye(3)[labels] * 2 + RANDOM.normal(size=(n, 120, 3)) for n in (1, 2, 2)]
    workdir = _finished(
        tmp_path, "classification", "accuracy", labels, seeds, description="Try <1>"
    )
    model = workdir / "distill" / "seed-3" / "model"
    model.mkdir()
    names = {"0": "negative", "1": "neutral", "2": "a<b"}
    (model / "config.json").write_text(json.dumps({"id2label": names}), encoding="utf-8")
    return workdir


def _figures(page: _Page) -> list[str]:
    prefix = "data:image/svg+xml;base64,"
    assert all(address.startswith(prefix) for address in page.loads)
    return [base64.b64decode(address[len(prefix) :]).decode() for address in page.loads]


def test_report_is_self_contained(classified):
    path = report.write_report(classified)
    assert path == classified / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    page = _Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    drawn = _figures(page)
    assert len(drawn) == 3
    for figure in drawn:
        assert "<svg" in figure
        # Names of XML formats are no addresses to load from.
        assert not re.search(r'(href|src)="(?!#|data:)', figure)


def test_report_says_what_was_found(classified):
    page = _Page(report.write_report(classified).read_text(encoding="utf-8"))
    result = json.loads((classified / "result.json").read_text())
    assert result["verdict"] in page.text
    for part in (
        "student alone",
        "70.50 ± 0.71",
        "95 % interval",
        "1.0 k",
        "4.0 kB",
        "+0.00 points",
    ):
        assert part in page.text
    assert "Learning curves" in page.text
    assert "Confusion matrix" in page.text
    assert "Expected calibration error: teacher" in page.text
    assert "jaxdistill run '" in page.text
    assert "my run-again'" in page.text
    assert "Try <1>" in page.text  # escaped on the way in, so it is text and not a tag
    assert "train: <b>&.tsv" in page.text
    assert "b" not in page.tags
    assert all(name in page.text for name in ("jaxlib", "optax", "Python"))


def test_report_repeats_the_warnings(classified):
    findings = [
        {"level": "ok", "name": "size", "message": "all is well"},
        {"level": "warning", "name": "overlap", "message": "3 inputs are in train"},
    ]
    (classified / "doctor.json").write_text(json.dumps(findings))
    page = _Page(report.write_report(classified).read_text(encoding="utf-8"))
    assert "3 inputs are in train" in page.text
    assert "all is well" not in page.text


def test_report_uses_recorded_environment(classified):
    result = json.loads((classified / "result.json").read_text())
    result["environment"] = {
        "python": "3.99",
        "system": "Abacus",
        "processors": 1,
        "devices": "10 x finger",
        "processes": 1,
        "versions": {"jax": "9.9"},
    }
    (classified / "result.json").write_text(json.dumps(result))
    assert "10 x finger" in report.write_report(classified).read_text(encoding="utf-8")


def test_report_of_a_multilabel_task(tmp_path):
    labels = RANDOM.integers(0, 2, (80, 4))
    seeds = [(labels * 2 - 1) + RANDOM.normal(size=(n, 80, 4)) for n in (1, 2, 2)]
    workdir = _finished(tmp_path, "multilabel", "exact_match", labels, seeds)
    page = _Page(report.write_report(workdir).read_text(encoding="utf-8"))
    assert len(_figures(page)) == 3
    assert "F1 per label" in page.text
    assert "Confusion" not in page.text


@pytest.mark.slow
def test_report_of_a_regression(tmp_path):
    labels = RANDOM.normal(size=60)
    seeds = [labels[:, None] + RANDOM.normal(size=(n, 60, 1)) for n in (1, 2, 2)]
    workdir = _finished(tmp_path, "regression", "spearman", labels, seeds)
    page = _Page(report.write_report(workdir).read_text(encoding="utf-8"))
    assert len(_figures(page)) == 2
    assert "Predictions" in page.text


@pytest.mark.parametrize("missing", ["result.json", "evaluate/predictions.npz", "config.yaml"])
def test_report_of_an_unfinished_run(classified, missing):
    (classified / missing).unlink()
    with pytest.raises(ConfigError, match="expected a run that has been evaluated"):
        report.write_report(classified)


@pytest.mark.parametrize("damaged", ["result.json", "evaluate/predictions.npz"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\0"])
def test_report_of_a_damaged_run(classified, damaged, content):
    (classified / damaged).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{damaged}: got .*; delete .*evaluate, and run"):
        report.write_report(classified)


@pytest.mark.parametrize("content", [b"", b"[{}]", b"[1]", b"{", b"\xff"])
def test_what_only_tells_stops_no_report(classified, content):
    (classified / "doctor.json").write_bytes(content)
    with next(classified.glob("*/seed-*/metrics.jsonl")).open("ab") as file:
        file.write(b'[1]\n{"event": "evaluation", "accuracy": 1}\n\xff\n')
    page = report.write_report(classified).read_text(encoding="utf-8")
    assert "doctor.json is damaged" in page


def test_evaluation_curves_skip_what_a_kill_cut_off(classified):
    curves = report.evaluation_curves(classified, "accuracy")
    assert curves == {
        model: [[(10, 0.28), (20, 0.53)], [(10, 0.29), (20, 0.54)]]
        for model in ("student alone", "student distilled")
    }


def test_mean_curve_averages_where_every_seed_is():
    steps, values = figures.mean_curve([[(1, 1.0), (2, 2.0)], [(1, 3.0), (2, 4.0), (3, 9.0)]])
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [2.0, 3.0])


def test_label_names(classified, tmp_path):
    assert report.label_names(classified, 3) == ["negative", "neutral", "a<b"]
    assert report.label_names(classified, 4) == ["0", "1", "2", "3"]
    assert report.label_names(tmp_path / "nowhere", 2) == ["0", "1"]


def test_confusion_counts_are_right():
    labels = np.array([0, 0, 1, 1])
    logits = np.eye(2)[[[0, 1, 1, 1], [0, 0, 1, 1]]]
    np.testing.assert_array_equal(figures.confusion_counts(logits, labels), [[1.5, 0.5], [0, 2]])
    svg = base64.b64decode(figures.confusion(logits, labels, ["no", "yes"]).split(",")[1]).decode()
    # Text is drawn as paths that carry it as a comment: means 1.5, 0.5 and 2 over two seeds.
    texts = re.findall(r"<!-- (.*?) -->", svg)
    assert {"1.5", "0.5", "2", "no", "yes"} <= set(texts)


@pytest.mark.parametrize("name", [r"$\frac{1$", "$$", "a_b^c", "<&>", "b\0c", "\ud800"])
def test_labels_of_figures_are_no_mathematics(name):
    logits, labels = np.eye(2)[None], np.array([0, 1])
    drawn = (
        figures.confusion(logits, labels, [name, "yes"]),
        figures.label_scores({"teacher": logits}, np.eye(2), [name, "yes"]),
    )
    for svg in drawn:
        xml.etree.ElementTree.fromstring(base64.b64decode(svg.split(",")[1]))


def test_figures_are_the_same_every_time(classified):
    first = report.write_report(classified).read_bytes()
    assert report.write_report(classified).read_bytes() == first
