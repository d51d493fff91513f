"""Any model measured on a split of the data, over all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.data.split import Split
from jaxdistill.engine.process_batch import rows_on
from jaxdistill.engine.step import make_eval_step
from jaxdistill.errors import Preempted
from jaxdistill.evaluation.metrics import compute_metrics
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation, sharding
from jaxdistill.parallel.mesh import SEQUENCE, batch_parts
from jaxdistill.runtime import preemption
from jaxdistill.setup import objective


def make_evaluator(
    config: Config, model: Model, mesh: Any, *, positive: int | None = None
) -> Callable[[Any, Any, Split], tuple[np.ndarray, dict[str, float]]]:
    """Return `evaluate(params, model_state, split) -> (logits [N, C], metrics)`, in split order.

    Of a task with a `score_step`, as of language models, it returns scores instead of logits.
    `positive` is the label that F1 is of, see `compute_metrics`.

    Raises (when called):
      Preempted: the process was asked to stop.
    """
    task = config.task_record
    if task.score_step is not None:
        step = function_of(task.score_step)(model.apply)
    else:
        step = make_eval_step(model.apply, objective.supervised_objective(config))
    step = compilation.compile_evaluation(step, mesh)
    parts = sharding.parameter_shardings(model.params, model.axes, mesh)
    part, place = rows_on(mesh)

    def evaluate(params, model_state, split):
        params = sharding.place(params, parts)
        model_state = sharding.place(model_state, sharding.replicated(mesh))
        source = eval_batches(
            split,
            batch_size=config.data.eval_batch_size,
            config=config.data,
            shards=batch_parts(mesh),
            multiple=mesh.shape[SEQUENCE],
        ).only(part)
        logits: list[tuple[Any, np.ndarray]] = []
        means = []
        for index in range(source.steps_per_epoch):
            if preemption.requested():
                raise Preempted("stopped during an evaluation; run the same command to go on")
            out, metrics = step(params, place(source[index]), model_state)
            logits.append((out, source.info(index).index))
            means.append(metrics["loss"])
        fetched = jax.device_get(logits)
        whole = None
        for out, rows in fetched:
            if whole is None:
                whole = np.zeros((len(split), *out.shape[1:]), np.float32)
            whole[rows[rows >= 0]] = out[rows >= 0]
        assert whole is not None
        loss = jax.device_get(means)
        total = sum(float(mean.total) for mean in loss) / sum(float(mean.weight) for mean in loss)
        return whole, {**measure(config, whole, split, positive), "loss": total}

    return evaluate


def measure(
    config: Config, logits: np.ndarray, split: Split, positive: int | None
) -> dict[str, float]:
    """Return the metrics of what was said of a split, by name."""
    names = tuple(dict.fromkeys((config.ranking_metric, *config.task_record.measured)))
    return compute_metrics(config.task, logits, split.truth, names, positive=positive)
