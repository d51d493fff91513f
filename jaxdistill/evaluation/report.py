"""One self-contained HTML page about a finished run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.config.load import load_config
from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.errors import ConfigError
from jaxdistill.evaluation.environment import environment
from jaxdistill.evaluation.speed import ROWS, measured, result_cells, result_header
from jaxdistill.evaluation.uncertainty import metric_interval
from jaxdistill.evaluation.verdict import format_difference, format_metric, mean_and_spread
from jaxdistill.files.array_files import read_arrays
from jaxdistill.files.json_files import read_object
from jaxdistill.files.sentence_folder import encoder_folder
from jaxdistill.types import Json

ARMS = {"student alone": "baseline", "student distilled": "distill"}
"""Which stage trained which student."""
_RESULT = ("metric", "teacher", "student_alone", "student_distilled", "seeds", "split")
_PREDICTIONS = ("labels", "teacher_logits", "alone_logits", "distilled_logits")


def write_report(workdir: Path) -> Path:
    """Write `report.html` from what the stages left in a work directory, and return its path.

    Raises:
      ConfigError: the run has not been evaluated yet.
      CheckpointError: what was written then is damaged.
    """
    from jinja2 import Environment, StrictUndefined

    config = load_config(str(_needed(workdir, "config.yaml")))
    again = f"delete {workdir / 'evaluate'}, and run the same command again to evaluate anew"
    result = read_object(_needed(workdir, "result.json"), *_RESULT, fix=again)
    predictions = _needed(workdir, "evaluate/predictions.npz")
    arrays = read_arrays(predictions, *_PREDICTIONS, fix=again)
    labels = arrays["labels"]
    logits = {
        "teacher": arrays["teacher_logits"][None],
        "student alone": arrays["alone_logits"],
        "student distilled": arrays["distilled_logits"],
    }
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        template
    )
    intervals = {
        name: _interval(config.task, seeds, labels, result) for name, seeds in logits.items()
    }
    html = page.render(
        name=config.name,
        description=" ".join(config.description.split()),
        result=result,
        measured=measured(result),
        header=(*result_header(result["metric"], result["teacher"]), "95 % interval"),
        rows=[
            (title, *result_cells(result["metric"], result[key]), intervals[title])
            for key, title in ROWS.items()
        ],
        seeds=_per_seed(result),
        figures=list(_figures(workdir, config, result, logits, labels)),
        warnings=_warnings(workdir),
        config=(workdir / "config.yaml").read_text(encoding="utf-8"),
        environment=result.get("environment") or environment(),
        command=reproduction(workdir),
    )
    path = workdir / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def reproduction(workdir: Path) -> str:
    """Return the command that runs the same configuration again, beside the old work directory."""
    workdir = workdir.absolute()
    config, again = workdir / "config.yaml", workdir.with_name(f"{workdir.name}-again")
    return f"jaxdistill run {shlex.quote(str(config))} --workdir {shlex.quote(str(again))}"


def read_metrics(path: Path) -> list[Json]:
    """Read the rows of a `metrics.jsonl`, without one that a kill cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def evaluation_curves(workdir: Path, name: str) -> dict[str, list[list[tuple[int, float]]]]:
    """Return `(step, value)` of a metric at each evaluation: model -> seeds -> points."""
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for model, stage in ARMS.items():
        for path in sorted((workdir / stage).glob("seed-*/metrics.jsonl")):
            rows = [row for row in read_metrics(path) if row.get("event") == "evaluation"]
            points = [
                (row["step"], row[name])
                for row in rows
                if row.get(name) is not None and row.get("step") is not None
            ]
            if points:
                curves.setdefault(model, []).append(points)
    return curves


def label_names(workdir: Path, classes: int) -> list[str]:
    """Return the names that the exported or trained student gives its labels, else their ids."""
    for folder in (workdir / "export" / "student", *(workdir / "distill").glob("seed-*/model")):
        try:
            path = encoder_folder(folder) / "config.json"
            table = json.loads(path.read_text(encoding="utf-8"))["id2label"]
            return [str(table[str(index)]) for index in range(classes)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # A student without names in this folder.
    return [str(index) for index in range(classes)]


def _figures(
    workdir: Path,
    config: Config,
    result: Json,
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> Iterator[tuple[str, str, str]]:
    """Yield title, caption and address of each figure that fits the task."""
    from jaxdistill.evaluation import figures

    metric = result["metric"]
    curves = {name: evaluation_curves(workdir, name) for name in (metric, "loss")}
    curves = {name: models for name, models in curves.items() if models}
    teacher, _ = mean_and_spread(result["teacher"]["values"])
    if curves:
        yield (
            "Learning curves",
            "Every evaluation on the validation split; seeds faint, their mean strong. The dashed "
            f"line is the teacher on the {result['split']} split.",
            figures.learning_curves(curves, teacher, metric),
        )
    draw = config.task_record.figures
    if draw is not None:
        names = label_names(workdir, next(iter(logits.values())).shape[-1])
        yield from function_of(draw)(logits, labels, names)


def _interval(task: str, seeds: np.ndarray, labels: np.ndarray, result: Json) -> str:
    """Format the 95 % interval over the choice of examples, averaged over seeds."""
    name, positive = result["metric"], result.get("positive")
    intervals = [metric_interval(task, seed, labels, name, positive=positive) for seed in seeds]
    found = np.mean(intervals, axis=0)
    return f"{format_metric(name, found[0])} to {format_metric(name, found[1])}"


def _per_seed(result: Json) -> Sequence[tuple[str, ...]]:
    name = result["metric"]
    alone, distilled = (result[key]["values"] for key in ("student_alone", "student_distilled"))
    return [
        (
            str(seed),
            format_metric(name, a),
            format_metric(name, d),
            format_difference(name, d - a, "+"),
        )
        for seed, a, d in zip(result["seeds"], alone, distilled, strict=True)
    ]


def _warnings(workdir: Path) -> list[dict[str, str]]:
    """Return what the doctor left to know about this run."""
    path = workdir / "doctor.json"
    try:
        findings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return [
            {key: str(finding[key]) for key in ("level", "name", "message")}
            for finding in findings
            if finding["level"] != "ok"
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # What only tells should not keep a report from being written.
        return [{"level": "warning", "name": "doctor", "message": f"{path.name} is damaged"}]


def _needed(workdir: Path, name: str) -> Path:
    path = workdir / name
    if not path.is_file():
        raise ConfigError(
            f"report: {path} is missing, expected a run that has been evaluated; "
            "first do `jaxdistill run` with this work directory"
        )
    return path
