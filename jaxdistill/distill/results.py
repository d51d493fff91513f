"""What a run came to: one training's account, and how the arms compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxdistill.config.schema import Config
from jaxdistill.distill import models as build
from jaxdistill.distill.workspace import Workspace
from jaxdistill.engine.loop import LoopResult
from jaxdistill.evaluation.environment import environment
from jaxdistill.evaluation.metrics import agreement
from jaxdistill.evaluation.speed import measure_speed
from jaxdistill.evaluation.uncertainty import difference_error
from jaxdistill.evaluation.verdict import verdict
from jaxdistill.models.registry import Model
from jaxdistill.models.sizes import count_bytes, count_parameters
from jaxdistill.types import Json


def account_of(config: Config, result: LoopResult, seed: int) -> Json:
    """Return what a training of one seed came to."""
    return {
        "seed": seed,
        "metric": config.ranking_metric,
        "value": result.progress.best_value,
        "best_step": result.progress.best_step,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "seconds_to_first_step": result.seconds_to_first_step,
        "examples_per_second": round(result.examples_per_second, 2),
        "tokens_per_second": round(result.tokens_per_second, 2),
        "padding": round(result.padding, 5),
    }


def compare(
    workspace: Workspace,
    folder: Path,
    examples: dict[str, Model],
    predicted: dict[str, list[tuple[np.ndarray, dict[str, float]]]],
) -> Json:
    """Measure one model of each arm, keep all predictions, and say which arm did better."""
    config, dataset = workspace.config, workspace.dataset
    split = dataset.validation if dataset.test is None else dataset.test
    ((teacher_logits, _),) = predicted["teacher"]
    predictions: dict[str, np.ndarray] = {"labels": split.truth, "teacher_logits": teacher_logits}
    rows = {}
    for arm, found in predicted.items():
        agreements = [1.0]
        if arm != "teacher":
            agreements = [agreement(logits, teacher_logits, config.task) for logits, _ in found]
            short = arm.removeprefix("student_")
            predictions[f"{short}_logits"] = np.stack([logits for logits, _ in found])
        values = [values for _, values in found]
        rows[arm] = _row(workspace, examples.get(arm), values, agreements)
    error = difference_error(
        config.task,
        predictions["alone_logits"],
        predictions["distilled_logits"],
        split.truth,
        config.ranking_metric,
        positive=dataset.positive,
    )
    np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **predictions)
    result = {
        "metric": config.ranking_metric,
        **build.measured_label(config, dataset),
        "higher_is_better": config.higher_is_better,
        "split": "validation" if dataset.test is None else "test",
        "examples": len(split),
        **rows,
        "seeds": list(config.seeds),
        "evaluation_error": error.examples,
        "interaction_error": error.interaction,
        "environment": environment(),
    }
    return {**result, "verdict": verdict(result)}


def _row(
    workspace: Workspace,
    model: Model | None,
    values: list[dict[str, float]],
    agreements: list[float],
) -> Json:
    """Return a row of the result; of a teacher that is a function, no size and no speed."""
    config = workspace.config
    speed = None if model is None else measure_speed(model, workspace.dataset, config)
    also = {
        name: [value[name] for value in values]
        for name in config.task_record.tabled
        if name != config.ranking_metric
    }
    return {
        "values": [value[config.ranking_metric] for value in values],
        **({"also": also} if also else {}),
        "parameters": None if model is None else count_parameters(model.params),
        "bytes": None if model is None else count_bytes(model.params),
        "latency_ms": None if speed is None else speed.latency_ms,
        "examples_per_second": None if speed is None else speed.examples_per_second,
        "agreement": agreements,
    }
