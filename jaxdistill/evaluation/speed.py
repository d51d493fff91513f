"""How fast a model is, and the table that a run ends with."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jaxdistill.config.schema import Config
from jaxdistill.data.batching.batch_source import BatchSource, eval_batches
from jaxdistill.data.dataset import Dataset
from jaxdistill.evaluation.lm_scores import last_logits
from jaxdistill.evaluation.verdict import decimals, is_share, mean_and_spread
from jaxdistill.models.frozen import keep_frozen
from jaxdistill.models.registry import Model
from jaxdistill.models.sizes import count_bytes
from jaxdistill.parallel import sharding
from jaxdistill.parallel.host_memory import fits_one_device, in_host_memory
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.tasks.registry import agreement_is_share
from jaxdistill.types import Json, Tree

if TYPE_CHECKING:
    from rich.table import Table

ROWS = {
    "teacher": "teacher",
    "student_alone": "student alone",
    "student_distilled": "student distilled",
}

"""Metrics of a regression, whose agreement is a correlation."""


class Speed(NamedTuple):
    """What one prediction costs.

    Attributes:
      latency_ms: median milliseconds for one example in a batch of its own.
      examples_per_second: at the evaluation's batch size.
    """

    latency_ms: float
    examples_per_second: float


def measure_speed(
    model: Model, dataset: Dataset, config: Config, *, repeats: int = 50, seconds: float = 2.0
) -> Speed | None:
    """Time the forward pass on one device, with inputs of the length most batches have.

    Warm-up and compilation are not counted, and every pass is waited for. None for a model that is
    too large for one device.

    Args:
      repeats: passes of each batch size, at most.
      seconds: time limit of each batch size; at least five passes are made.
    """
    split = dataset.validation if dataset.test is None else dataset.test
    source = eval_batches(split, batch_size=config.data.eval_batch_size, config=config.data)
    whole, rows = _usual_batch(source)
    single = {name: array[:1] for name, array in whole.items()}
    with in_host_memory():
        model = keep_frozen(model)
    if not fits_one_device(count_bytes(model.params)):
        return None
    devices = jax.local_devices()[:1]
    params, model_state = jax.device_put((model.params, model.model_state), devices[0])
    mesh = make_mesh(1, devices=devices)

    @jax.jit
    def forward(params: Tree, model_state: Tree, batch: Mapping[str, jax.Array]) -> jax.Array:
        with sharding.on_mesh(mesh):
            return last_logits(model.apply(params, batch, model_state=model_state))

    def median(batch: Mapping[str, np.ndarray]) -> float:
        inputs = {name: array for name, array in batch.items() if name not in ("labels", "weight")}
        placed = jax.device_put(inputs)
        return _median_seconds(lambda: forward(params, model_state, placed), repeats, seconds)

    return Speed(1000 * median(single), rows / median(whole))


def result_table(result: Json) -> Table:
    """Lay out a run's result: one row per model, spread over seeds where there are several."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    about = f"{result['examples']:,} examples of the {result['split']} split{measured(result)}"
    table = Table(
        title=escape(about),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        pad_edge=False,
    )
    header = result_header(result["metric"], result["teacher"])
    # Further metrics take the room of what a line of 80 characters has not.
    left_out = ("size", "examples/s") if _also(result["teacher"]) else ()
    kept = [place for place, column in enumerate(header) if column not in left_out]
    for place in kept:
        table.add_column(header[place], justify="right" if place else "left")
    for key, title in ROWS.items():
        cells = title, *result_cells(result["metric"], result[key])
        table.add_row(*(cells[place] for place in kept))
    return table


def measured(result: Json) -> str:
    """Say, after other words, which labels a metric is of that is not of all rows alike."""
    return f"; {result['metric']} is {result['metric_of']}" if result.get("metric_of") else ""


def result_header(name: str, row: Json | None = None) -> tuple[str, ...]:
    """Return the titles of the columns, with those of a row's other metrics; shares in percent."""
    names = [name, *(other for other, _ in _also(row or {}))]
    metrics = [f"{name} %" if is_share(name) else name.replace("_", " ") for name in names]
    agreement = "agreement %" if agreement_is_share(name) else "agreement"
    return ("model", *metrics, agreement, "params", "size", "latency", "examples/s")


def result_cells(name: str, row: Json) -> tuple[str, ...]:
    """Format one model: metric, agreement with the teacher, parameters, size and speed."""
    return (
        with_spread(row["values"], percent=is_share(name), decimals=decimals(name)),
        *(
            with_spread(values, percent=is_share(other), decimals=decimals(other))
            for other, values in _also(row)
        ),
        with_spread(row["agreement"], percent=agreement_is_share(name)),
        "—" if row["parameters"] is None else _short(row["parameters"]),
        "—" if row["bytes"] is None else f"{_short(row['bytes'])}B",
        *_speed_cells(row["latency_ms"], row["examples_per_second"]),
    )


def _speed_cells(latency: float | None, rate: float | None) -> tuple[str, str]:
    if latency is None or rate is None:
        return "—", "—"
    return f"{latency:.2g} ms" if latency < 10 else f"{latency:.0f} ms", f"{rate:,.0f}"


def _also(row: Json) -> list[tuple[str, list[float]]]:
    return list(row.get("also", {}).items())


def with_spread(values: list[float], *, percent: bool, decimals: int = 4) -> str:
    """Format `mean ± sample standard deviation`."""
    mean, spread = mean_and_spread(values)
    scale, digits = (100, 2) if percent else (1, decimals)
    tail = "" if spread is None else f" ± {scale * spread:.{digits}f}"
    return f"{scale * mean:.{digits}f}{tail}"


def _usual_batch(source: BatchSource) -> tuple[Mapping[str, np.ndarray], int]:
    """Return the fullest batch of the commonest shape, and how many examples it holds."""
    infos = [source.info(step) for step in range(source.steps_per_epoch)]
    commonest = Counter(info.slots for info in infos).most_common(1)[0][0]
    steps = [step for step, info in enumerate(infos) if info.slots == commonest]
    step = max(steps, key=lambda step: infos[step].examples)
    # Rows that only fill the batch cost as much as real ones, so they count as work done.
    batch = source[step]
    return batch, len(batch["labels"])


def _median_seconds(run: Callable[[], object], repeats: int, seconds: float) -> float:
    for _ in range(2):
        jax.block_until_ready(run())
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 5 or (len(times) < repeats and time.perf_counter() < deadline):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _short(count: int) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} "
